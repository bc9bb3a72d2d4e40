"""What a computation needs, found by running it on the meta device: operations and live bytes."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


def _grouped_product(rows: Tensor, weights: Tensor, *_: Any, **__: Any) -> int:
    """Of rows (S, I), each with one of several matrices (E, I, O), as experts of a mixture are."""
    if rows.ndim != 2 or weights.ndim != 3:
        raise NotImplementedError(
            f"a grouped product of {rows.ndim} and {weights.ndim} dimensions has no formula here"
        )
    return 2 * rows.shape[0] * rows.shape[1] * weights.shape[2]


_FORMULAS = {"_grouped_mm": _grouped_product, "grouped_mm_fallback": _grouped_product}
"""Operations of products that torch's own registry does not know, by the operator's name."""
_GROUPED = [getattr(torch, "_grouped_mm", None), getattr(F, "grouped_mm", None)]
_PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "addbmm", "mv", "addmv", "matmul"}
"""Parts of an operator's name that tell a matrix product."""


class Ledger(TorchDispatchMode):
    """Counts the operations of matrix products, and the bytes of tensors while they live.

    Tensors on the meta device have a size and no memory, so that a pass of any model costs nothing
    but its Python. Only tensors that are made inside count.

    Args:
        known: tensors that are there already, views of which are nothing new.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.flops = 0
        """Operations of matrix products and attention, two for each multiply-add."""
        self.uncounted: set[str] = set()
        """Matrix products that there is no formula for."""
        self._events: list[tuple[int, int]] = []  # (number of the storage, its bytes; < 0: freed)
        self._numbers: dict[int, int | None] = {_key(tensor): None for tensor in known}

    def peak(self, without: Iterable[Tensor] = ()) -> int:
        """The most bytes that lived at one time, those of some tensors left aside."""
        aside = {self._numbers.get(_key(tensor)) for tensor in without}
        live = highest = 0
        for number, size in self._events:
            if number not in aside:
                live += size
                highest = max(highest, live)
        return highest

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run one operator and take it down."""
        out = func(*args, **(kwargs or {}))
        name = func._overloadpacket.__name__
        formula = _FORMULAS.get(name) or flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += int(formula(*args, **(kwargs or {}), out_val=out))
        elif _PRODUCTS.intersection(name.split("_")):
            self.uncounted.add(name)
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                self._hold(value)
        return out

    def _hold(self, tensor: Tensor) -> None:
        storage, key = tensor.untyped_storage(), _key(tensor)
        if key in self._numbers:
            return
        number, size = len(self._events), storage.nbytes()
        self._numbers[key] = number
        self._events.append((number, size))
        weakref.finalize(storage, self._drop, key, number, size).atexit = False

    def _drop(self, key: int, number: int, size: int) -> None:
        self._events.append((number, -size))
        if self._numbers.get(key) == number:
            del self._numbers[key]


class Unmasked(TorchFunctionMode):
    """Lets a language model run without numbers.

    Attention is one operator that keeps no scores, as every device has it; on the meta device it
    would fall into products with scores of all pairs of tokens. Models ask their masks whether all
    of something holds (no padding, no packed texts): yes. Experts of a mixture are one product of
    rows with matrices of their own, which the meta device has for bfloat16 alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        """Operations of attention, counted as if no pair of tokens were masked, and of experts."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run one function; attention gives an empty tensor of its result's shape."""
        named = kwargs or {}
        if func is Tensor.__bool__ and args[0].is_meta and args[0].dtype == torch.bool:
            return True
        if func in _GROUPED and args[0].is_meta:
            self.flops += _grouped_product(*args, **named)
            return args[0].new_empty(args[0].shape[0], args[1].shape[-1])
        if func is not F.scaled_dot_product_attention:
            return func(*args, **named)
        given = dict(zip(("query", "key", "value"), args, strict=False))
        query, key, value = ({**named, **given}[name] for name in ("query", "key", "value"))
        pairs = query.shape[:-1].numel() * key.shape[-2]
        self.flops += 2 * pairs * (query.shape[-1] + value.shape[-1])
        return query.new_empty(*query.shape[:-1], value.shape[-1])


def _key(tensor: Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address


def on_meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """An empty tensor without memory."""
    return torch.empty(*shape, dtype=dtype, device="meta")
