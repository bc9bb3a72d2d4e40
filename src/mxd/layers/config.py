"""What every layer's configuration has: its widths, and the checks that name a typo."""

from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from mxd.errors import UserError
from mxd.layers.edits import Edit, check_conditional

SPARSITIES = ("topk", "l1")


@dataclass(kw_only=True)
class LayerConfig:
    """Widths that every layer has."""

    d_in: int
    """Width I of the input x."""
    d_out: int
    """Width O of the output y."""

    architecture: ClassVar[str]

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _POSITIVE and (type(value) is not int or value < 1):
                raise UserError(
                    f"got {field.name}={value!r}, expected a whole number of at least 1"
                )
            if field.type is bool and type(value) is not bool:
                raise UserError(f"got {field.name}={value!r}, expected true or false")

    @property
    def n_units(self) -> int:
        """Number of gated units: experts, or latents; 0 where nothing is gated."""
        return 0

    def to_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON."""
        return asdict(self)


_POSITIVE = ("d_in", "d_out", "d_hidden", "n_experts", "n_latents", "k")


@dataclass(kw_only=True)
class SparseConfig(LayerConfig):
    """Options of everything that has gated units."""

    k: int
    """K, how many units may be active for a token."""
    sparsity: str = "topk"
    """`topk`: the K largest coefficients. `l1`: every positive coefficient, kept few by a penalty
    in the loss; `k` is then only the size that comparisons are made at."""
    random_k: bool = False
    """Draw K anew at each training step from K ± K/2, which pushes experts to specialise."""
    unit_norm: bool = False
    """Keep modulators or decoder rows at unit norm during training: the gradient's part along a
    row is removed before each step and the row is normalised after it."""
    edits: tuple[Edit, ...] = ()
    """Changes to units that depend on the token; `mxd.edited` makes them."""

    @property
    def least_k(self) -> int:
        """The smallest K that leaves a unit to choose."""
        return 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sparsity not in SPARSITIES:
            raise UserError(
                f"got sparsity {self.sparsity!r}, expected one of {', '.join(SPARSITIES)}"
            )
        if self.sparsity == "l1" and self.random_k:
            raise UserError("got random_k with sparsity 'l1', expected 'topk': l1 has no K to draw")
        if self.k > self.n_units:
            raise UserError(
                f"got k={self.k} with {self.n_units} units, expected k between 1 and the number "
                "of units; lower k or raise the expansion"
            )
        check_conditional(self.edits, self.n_units)

    def to_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON; `edits` only where there are some."""
        plain = super().to_dict()
        del plain["edits"]
        return {**plain, "edits": [e.to_dict() for e in self.edits]} if self.edits else plain


@dataclass(kw_only=True)
class DenseBranchConfig(LayerConfig):
    """Options of everything that has the dense hidden units z = φ(E x + e)."""

    d_hidden: int
    """H, width of the dense hidden units."""
    activation: str = "gelu"
    """φ, by its name in transformers' ACT2FN."""
    glu: bool = False
    """Gated linear unit: z = φ(E_g x + e_g) ⊙ (E_u x + e_u)."""
