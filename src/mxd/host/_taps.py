"""Forward hooks that note what goes into a site and what comes out of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from mxd.errors import UserError
from mxd.host._calls import check_token_ids, tensor_arguments, token_ids_of, token_shape_of

Values = dict[str, tuple[Tensor, Tensor]]


class StopForward(Exception):  # noqa: N818 - a way out of the forward pass, no error
    """Every tap has its values: the rest of the forward pass is not needed."""


@dataclass(frozen=True, eq=False)
class Tap:
    """Where a site is entered and left."""

    name: str
    entry: nn.Module
    """Its first tensor argument is x."""
    exit: nn.Module
    """Its output is y."""
    adds_residual: bool = False
    """The entry's output is y plus its second argument: for hosts that never call the exit."""


@dataclass(eq=False)
class _Recorder:
    """The state that the hooks of one `recording` share."""

    wanted: int
    stop: bool
    values: Values = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)
    token_shape: tuple[int, ...] | None = None

    def begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.values.clear()
        self.inputs.clear()
        self.token_shape = token_shape_of(args, kwargs)
        ids = token_ids_of(args, kwargs)
        if ids is not None:
            check_token_ids(model, ids)

    def enter(self, tap: Tap, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensors = tensor_arguments(args, kwargs)
        if not tensors:
            raise UserError(f"got a call of {tap.name} without a tensor, expected its input x")
        # Copied: some hosts go on to work in place (Falcon adds attention into the MLP's output).
        self.inputs[tap.name] = tensors[0].detach().clone()

    def leave(self, tap: Tap, output: Any) -> None:
        if tap.name not in self.inputs:  # the exit ran before the entry: not this site's call
            return
        if not isinstance(output, Tensor):
            got = type(output).__name__
            raise UserError(
                f"got a {got} from {tap.name}, expected one tensor; choose another site"
            )
        x = self._unflattened(self.inputs.pop(tap.name))
        self.values[tap.name] = (x, self._unflattened(output.detach().clone()))
        if self.stop and len(self.values) == self.wanted:
            raise StopForward

    def leave_with_residual(
        self, tap: Tap, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        if tap.name in self.inputs:
            self.leave(tap, output - tensor_arguments(args, kwargs)[1])

    def _unflattened(self, value: Tensor) -> Tensor:
        """OPT flattens (batch, sequence, d) to (tokens, d) ahead of its MLP: undo that."""
        shape = self.token_shape
        if shape is None or value.ndim != 2 or len(shape) != 2:
            return value
        flattened = value.shape[0] == shape[0] * shape[1]
        return value.reshape(*shape, value.shape[-1]) if flattened else value


@contextlib.contextmanager
def recording(model: nn.Module, taps: Sequence[Tap], *, stop: bool) -> Iterator[Values]:
    """Note (x, y) at every tap during each forward pass of the model inside.

    The dictionary is emptied when a forward pass begins. With `stop` the pass ends, through
    `StopForward`, as soon as every tap has been seen.
    """
    recorder = _Recorder(wanted=len(taps), stop=stop)
    with contextlib.ExitStack() as stack:
        hook = model.register_forward_pre_hook(recorder.begin, with_kwargs=True)
        stack.callback(hook.remove)
        for tap in taps:
            _attach(tap, recorder, stack)
        yield recorder.values


def _attach(tap: Tap, recorder: _Recorder, stack: contextlib.ExitStack) -> None:
    def enter(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        recorder.enter(tap, args, kwargs)

    def leave(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        recorder.leave(tap, output)

    def leave_late(
        _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        recorder.leave_with_residual(tap, args, kwargs, output)

    entered = tap.entry.register_forward_pre_hook(enter, with_kwargs=True)
    stack.callback(entered.remove)
    stack.callback(tap.exit.register_forward_hook(leave).remove)
    if tap.adds_residual:
        late = tap.entry.register_forward_hook(leave_late, with_kwargs=True)
        stack.callback(late.remove)
