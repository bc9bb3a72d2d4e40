"""The part of a recipe that says what the layers are, and what single students change of it."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from mxd.errors import UserError
from mxd.layers import DenseBranchConfig, SparseConfig, activation, layer_class
from mxd.training._checks import at_least, one_of

STARTS = ("paper", "random_decoder", "base_mlp", "unit_modulators")


@dataclass(frozen=True, kw_only=True)
class LayerRecipe:
    """Options of the layers beside their architecture and K."""

    expansion: float = 32.0
    """Width of the transcoder, in units of d, whose parameters every layer is matched to."""
    width: int | None = None
    """Number of experts or latents, instead of matching parameters."""
    rule: str = "exact"
    """How an MxD is matched: `exact`, or `paper` for the paper's N (`match_experts`)."""
    d_hidden: int | None = None
    """H, width of the dense hidden units; None takes the base MLP's own."""
    activation: str | None = None
    """φ of the dense hidden units, by its name in transformers; None takes the base MLP's own."""
    sparsity: str = "topk"
    """`topk`, or `l1` (a penalty on the coefficients in place of top-k)."""
    random_k: bool = False
    """Draw K anew at each step from K ± K/2."""
    unit_norm: bool = False
    """Keep modulators or decoder rows at unit norm (not where the rows start at zero)."""
    shared_experts: int = 0
    """Experts of an MxD that are always on."""
    start: str = "paper"
    """How dense branch and modulators start: `paper` (D at zero), `random_decoder` (D like
    nn.Linear), `base_mlp` (encoder and D of the base MLP), `unit_modulators` (modulators near 1);
    architectures without such a part start as ever."""

    def __post_init__(self) -> None:
        one_of("rule", self.rule, ("exact", "paper"))
        one_of("sparsity", self.sparsity, ("topk", "l1"))
        one_of("start", self.start, STARTS)
        if self.activation is not None:
            activation(self.activation)
        if not self.expansion > 0:
            raise UserError(f"got expansion={self.expansion}, expected more than 0, for example 32")
        for name in ("width", "d_hidden"):
            if getattr(self, name) is not None:
                at_least(name, getattr(self, name), 1)
        at_least("shared_experts", self.shared_experts, 0)

    def options(self) -> dict[str, Any]:
        """The fields that a layer's configuration takes."""
        names = ("sparsity", "random_k", "unit_norm", "shared_experts")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class LayerOverrides:
    """What one student's layer has in place of the recipe's `LayerRecipe`; None leaves a field."""

    width: int | None = None
    """Number of experts or latents."""
    d_hidden: int | None = None
    """H, width of the dense hidden units."""
    activation: str | None = None
    """φ of the dense hidden units."""
    sparsity: str | None = None
    """`topk` or `l1`."""
    random_k: bool | None = None
    """Draw K anew at each step."""
    unit_norm: bool | None = None
    """Keep modulators or decoder rows at unit norm."""
    shared_experts: int | None = None
    """Experts of an MxD that are always on."""
    start: str | None = None
    """How dense branch and modulators start."""

    def __post_init__(self) -> None:
        self.on(LayerRecipe())

    def given(self) -> dict[str, Any]:
        """The fields that are not None."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def on(self, recipe: LayerRecipe) -> LayerRecipe:
        """The recipe with these fields put over its own.

        Raises:
            UserError: a value out of range.
        """
        return replace(recipe, **self.given())


def check_applies(architecture: str, options: LayerOverrides) -> None:
    """Refuse an option that an architecture has no part for: its variant would be a false label.

    Raises:
        UserError: there is one.
    """
    idle = [name for name in options.given() if not _applies(architecture, name, options.start)]
    if idle:
        raise UserError(
            f"got {', '.join(idle)} for {architecture}, which it does not change, expected options "
            "that apply; leave it out or choose another architecture"
        )


def _applies(architecture: str, name: str, start: str | None) -> bool:
    config = layer_class(architecture).config_class
    if name in ("d_hidden", "activation"):
        return issubclass(config, DenseBranchConfig)
    if name == "start":
        return architecture == "mxd" or (
            issubclass(config, DenseBranchConfig) and start != "unit_modulators"
        )
    if name == "shared_experts":
        return architecture == "mxd"
    if name == "unit_norm" and architecture in ("skip_transcoder", "mlp_transcoder"):
        return False  # their rows start at zero
    return issubclass(config, SparseConfig)
