"""How the processes of a run divide the work: data, students, one layer's experts."""

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from mxd.errors import UserError
from mxd.layers import SparseLayer, layer_class
from mxd.training.distributed.split import split_units
from mxd.training.recipe import Recipe

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

DIMENSIONS = ("data", "students", "experts")
"""Dimensions of the mesh, the outermost first: ranks that share experts are neighbours."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Sizes of the mesh; their product is the number of processes."""

    data: int = 1
    """Parts of every batch that are computed side by side."""
    students: int = 1
    """Groups of processes that each train some of the students."""
    experts: int = 1
    """Processes that share the experts (or latents) of one layer."""

    def __post_init__(self) -> None:
        for name, size in asdict(self).items():
            if type(size) is not int or size < 1:
                raise UserError(f"got {name}={size!r}, expected a whole number of at least 1")

    @classmethod
    def parse(cls, text: str | None, world_size: int) -> "Layout":
        """The layout that a text such as `data=2,experts=2` names.

        A dimension that is left out takes the processes that are left: `data` where it is left out,
        or the only one that is. Nothing at all means data parallel.

        Raises:
            UserError: no such dimension, no number, or sizes that do not fit the processes.
        """
        sizes = _sizes(text or "")
        product = math.prod(sizes.values())
        if world_size % product:
            raise _misfit(text, product, world_size)
        left = world_size // product
        missing = [name for name in DIMENSIONS if name not in sizes]
        if left > 1:
            if "data" not in missing and len(missing) != 1:
                raise _misfit(text, product, world_size)
            sizes["data" if "data" in missing else missing[0]] = left
        return cls(**sizes)

    def check(self, recipe: Recipe) -> None:
        """Refuse, as far as the recipe alone tells, what processes so divided cannot train.

        Raises:
            UserError: there is such a thing.
        """
        self.check_students(len(recipe.students) * (len(recipe.layers) + len(recipe.sites)))
        for spec in recipe.students:
            if self.experts > 1 and not issubclass(layer_class(spec.architecture), SparseLayer):
                raise UserError(
                    f"got a {spec.architecture} for a layout with experts={self.experts}, expected "
                    "layers with experts or latents; train it with another layout"
                )

    def check_students(self, count: int) -> None:
        """Refuse fewer students than there are to be groups of them.

        Raises:
            UserError: there are fewer.
        """
        if count < self.students:
            raise UserError(
                f"got {count} students for a layout with students={self.students}, expected at "
                f"least one for each group of processes; give students={count} or fewer"
            )

    def check_units(self, count: int) -> None:
        """Refuse a layer of fewer units than processes that are to share it.

        Raises:
            UserError: it has fewer.
        """
        split_units(count, self.experts, 0)

    @property
    def world_size(self) -> int:
        """How many processes it takes."""
        return self.data * self.students * self.experts

    def __str__(self) -> str:
        return ",".join(f"{name}={getattr(self, name)}" for name in DIMENSIONS)

    def mesh(self, device_type: str = "cpu") -> "DeviceMesh":
        """The mesh of all processes; every one of them has to call it.

        Args:
            device_type: `cpu` or `cuda`.
        """
        from torch.distributed.device_mesh import init_device_mesh

        sizes = tuple(getattr(self, name) for name in DIMENSIONS)
        return init_device_mesh(device_type, sizes, mesh_dim_names=DIMENSIONS)


def dealt(count: int, parts: int, part: int) -> range:
    """Which of `count` things (students, shards of text) one of `parts` takes: every parts-th."""
    return range(part, count, parts)


def _sizes(text: str) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for piece in filter(None, (piece.strip() for piece in text.split(","))):
        name, equals, size = (part.strip() for part in piece.partition("="))
        if name not in DIMENSIONS or not equals or name in sizes:
            raise UserError(
                f"got {piece!r} in layout {text!r}, expected each of {', '.join(DIMENSIONS)} once "
                "at most, as in data=2,experts=2"
            )
        if not (size.isascii() and size.isdigit() and len(size) < 10 and int(size) > 0):
            raise UserError(f"got {name}={size!r}, expected a whole number of at least 1")
        sizes[name] = int(size)
    return sizes


def _misfit(text: str | None, product: int, world_size: int) -> UserError:
    return UserError(
        f"got layout {text!r} for {world_size} processes, expected sizes whose product is that "
        f"number, got {product}; change the layout or start another number of processes"
    )
