"""The paper's four models: what was trained on them, what it cost and what it gave."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from mxd.errors import UserError
from mxd.host import MLPSite
from mxd.training.recipe import Recipe

PAPER_TEXT = "Skylion007/openwebtext"
PAPER_TOKENS = 480_000_000
PAPER_ARCHITECTURES = ("mxd", "transcoder", "skip_transcoder")
PAPER_KS = (16, 32, 64, 128, 256)


@dataclass(frozen=True, kw_only=True)
class PublishedPoint:
    """One published result: next-token cross-entropy with the layer in the MLP's place."""

    architecture: str
    """`mxd`, `transcoder` or `skip_transcoder`."""
    k: int
    """K."""
    cross_entropy: float
    """In nats per token, on text of the training stream."""
    delta: float
    """Increase over the base model, as read off the figure: rounded apart from the other."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One model of the paper (Figure 3, Table 2 and appendix), and what was published of it."""

    name: str
    """Its name on the command line."""
    model: str
    """Its hub id."""
    layer: int
    """The block whose MLP is taken apart."""
    d_model: int
    """Width of the MLP's input and output."""
    d_hidden: int
    """H."""
    activation: str
    """φ that the reference trained with, by its name in transformers."""
    glu: bool
    """Whether the MLP is a GLU."""
    n_experts: int
    """N, by the paper's rule."""
    base_cross_entropy: float
    """Of the base model, in nats per token."""
    points: tuple[PublishedPoint, ...]
    """What was published."""
    training_seconds: int
    """What the paper's training at K = 32 took."""
    hardware: str
    """What it took that on."""
    text: str = PAPER_TEXT
    """What it was trained on."""
    tokens: int = PAPER_TOKENS
    """Tokens it was trained on."""

    def check(self, site: MLPSite) -> None:
        """Make sure that a model is the preset's, as far as the site's widths tell.

        Raises:
            UserError: they are others.
        """
        found = (site.d_in, site.d_out, site.d_hidden, site.glu)
        expected = (self.d_model, self.d_model, self.d_hidden, self.glu)
        if found != expected:
            raise UserError(
                f"got a model whose {site.name} maps {site.d_in} to {site.d_out} through "
                f"{site.d_hidden} hidden units{' (GLU)' if site.glu else ''}, expected "
                f"{self.d_model} to {self.d_model} through {self.d_hidden}"
                f"{' (GLU)' if self.glu else ''} as in {self.model}, the model of preset "
                f"{self.name}; give that model, or leave --preset out"
            )

    def record(self, *, scale: int | float) -> dict[str, Any]:
        """What run.json keeps of the preset, so that reports can draw the paper's curve."""
        return {
            "name": self.name,
            "model": self.model,
            "layer": self.layer,
            "scale": scale,
            "tokens": self.tokens,
            "published": {
                "base_cross_entropy": self.base_cross_entropy,
                "points": [asdict(point) for point in self.points],
                "training_seconds": self.training_seconds,
                "hardware": self.hardware,
                "text": self.text,
                "source": "Oldfield et al., Mixture of Decoders (NeurIPS 2025), read off the "
                "published figure",
            },
        }


def scaled(recipe: Recipe, scale: int | float) -> Recipe:
    """A recipe with its token budget shrunk, and its warm-up in steps with it.

    Args:
        recipe: the recipe.
        scale: share of the budget, above 0 and up to 1.

    Raises:
        UserError: a scale out of range.
    """
    if not 0 < scale <= 1:
        raise UserError(f"got scale {scale:g}, expected above 0 and up to 1, such as 0.01")
    if scale == 1:
        return recipe
    warmup = round(recipe.optimizer.warmup_steps * scale)
    optimizer = replace(recipe.optimizer, warmup_steps=warmup)
    return replace(recipe, tokens=max(1, round(recipe.tokens * scale)), optimizer=optimizer)


def _points(**columns: list[tuple[int, float, float]]) -> tuple[PublishedPoint, ...]:
    return tuple(
        PublishedPoint(architecture=architecture, k=k, cross_entropy=loss, delta=delta)
        for architecture, rows in columns.items()
        for k, loss, delta in rows
    )


_ALL = (
    Preset(
        name="gpt2-124m",
        model="openai-community/gpt2",
        layer=8,
        d_model=768,
        d_hidden=3072,
        activation="gelu",  # erf, where the model itself has the tanh form
        glu=False,
        n_experts=21490,
        base_cross_entropy=3.6011,
        points=_points(
            mxd=[
                (16, 3.6043, 0.0032), (32, 3.6039, 0.0029), (64, 3.6032, 0.0022),
                (128, 3.6028, 0.0017), (256, 3.6032, 0.0022),
            ],
            skip_transcoder=[
                (16, 3.6317, 0.0306), (32, 3.6222, 0.0211), (64, 3.6135, 0.0124),
                (128, 3.6091, 0.0080), (256, 3.6058, 0.0048),
            ],
            transcoder=[
                (16, 3.6352, 0.0341), (32, 3.6260, 0.0249), (64, 3.6152, 0.0141),
                (128, 3.6101, 0.0090), (256, 3.6063, 0.0053),
            ],
        ),
        training_seconds=30_877,
        hardware="1 × RTX 3090",
    ),
    Preset(
        name="pythia-410m",
        model="EleutherAI/pythia-410m",
        layer=15,
        d_model=1024,
        d_hidden=4096,
        activation="gelu",
        glu=False,
        n_experts=28658,
        base_cross_entropy=3.3222,
        points=_points(
            mxd=[(32, 3.3249, 0.0027), (256, 3.3226, 0.0004)],
            skip_transcoder=[(32, 3.3360, 0.0138), (256, 3.3279, 0.0057)],
            transcoder=[(32, 3.3434, 0.0212), (256, 3.3299, 0.0076)],
        ),
        training_seconds=30_917,
        hardware="1 × RTX 3090",
    ),
    Preset(
        name="pythia-1.4b",
        model="EleutherAI/pythia-1.4b",
        layer=12,
        d_model=2048,
        d_hidden=8192,
        activation="gelu",
        glu=False,
        n_experts=57330,
        base_cross_entropy=3.0990,
        points=_points(
            mxd=[(32, 3.1002, 0.0012), (256, 3.0997, 0.0006)],
            skip_transcoder=[(32, 3.1093, 0.0103), (256, 3.1039, 0.0049)],
            transcoder=[(32, 3.1170, 0.0179), (256, 3.1062, 0.0072)],
        ),
        training_seconds=84_323,
        hardware="1 × A100 80 GB",
    ),
    Preset(
        name="llama-3.2-3b",
        model="meta-llama/Llama-3.2-3B",
        layer=12,
        d_model=3072,
        d_hidden=8192,
        activation="silu",
        glu=True,
        n_experts=86015,
        base_cross_entropy=3.0198,
        points=_points(
            mxd=[(32, 3.0209, 0.0011), (256, 3.0204, 0.0006)],
            skip_transcoder=[(32, 3.0294, 0.0096), (256, 3.0242, 0.0044)],
            transcoder=[(32, 3.0384, 0.0186), (256, 3.0303, 0.0105)],
        ),
        training_seconds=173_030,
        hardware="1 × A100 80 GB",
    ),
)  # fmt: skip
PRESETS = {one.name: one for one in _ALL}
"""The presets by name."""
