"""One linear map inside an MLP, whichever class holds it and whichever way its weight lies."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor, nn

from mxd.host._weights import full_tensor, is_quantised


@dataclass(frozen=True, eq=False)
class Projection:
    """A linear map of the host, or one half of a fused pair of them."""

    name: str
    """Dotted name of the module in the model."""
    module: nn.Module
    d_from: int
    d_to: int
    start: int = 0
    """First output that belongs to this map; above zero only in the second half of a fused pair."""

    @property
    def weight(self) -> Float[Tensor, "d_to d_from"]:
        """The map as (outputs, inputs), detached: a view of the host's own tensor if it is dense.

        What is quantised is unpacked, what is offloaded is fetched, each time anew.
        """
        weight = full_tensor(self.module, "weight")
        assert weight is not None
        full = weight.T if is_conv1d(self.module) else weight
        return full[self.start : self.start + self.d_to]

    @property
    def bias(self) -> Float[Tensor, "d_to"] | None:
        """The bias as a detached view, or None."""
        bias = full_tensor(self.module, "bias")
        return None if bias is None else bias[self.start : self.start + self.d_to]

    def halves(self) -> tuple[Projection, Projection]:
        """The two maps that are fused in this one, in the order of their outputs."""
        half = self.d_to // 2
        return replace(self, d_to=half), replace(self, d_to=half, start=half)


def is_conv1d(module: nn.Module) -> bool:
    """Whether this is GPT-2's linear layer, whose weight is (inputs, outputs).

    Told by its class name, because importing transformers for a type costs seconds.
    """
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def as_projection(name: str, module: nn.Module) -> Projection | None:
    """The module as a linear map, or None where it is none (or is quantised out of sight)."""
    if is_quantised(module):  # its weight is packed, and has another shape
        return Projection(name, module, int(module.in_features), int(module.out_features))  # type: ignore[arg-type]
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2 or not weight.is_floating_point():
        return None
    if is_conv1d(module):
        return Projection(name, module, d_from=weight.shape[0], d_to=weight.shape[1])
    shape = (getattr(module, "out_features", None), getattr(module, "in_features", None))
    if tuple(weight.shape) != shape:
        return None
    return Projection(name, module, d_from=weight.shape[1], d_to=weight.shape[0])


def child_projections(name: str, module: nn.Module) -> list[Projection]:
    """The linear maps among a module's direct children, in order."""
    found = (as_projection(join(name, child), sub) for child, sub in module.named_children())
    return [projection for projection in found if projection is not None]


def join(parent: str, child: str) -> str:
    """A dotted name; a module's own name relative to itself is empty, and so is a model's."""
    return f"{parent}.{child}" if parent and child else parent or child
