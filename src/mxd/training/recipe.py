"""The recipe: everything that decides what a run computes, in one tree of documented fields."""

from dataclasses import asdict, dataclass, field
from typing import Any

from mxd.data import ContextOptions, ExclusionOptions, TextOptions
from mxd.errors import UserError
from mxd.host import QUANTISED
from mxd.layers import ARCHITECTURES
from mxd.training._checks import at_least, one_of, variant_name
from mxd.training.layer_recipe import LayerOverrides, LayerRecipe, check_applies
from mxd.training.losses import loss_function

PRECISIONS = ("auto", "float32", "bf16")
ORDERS = ("shuffled", "harvested")
EXHAUSTED = ("repeat", "stop")


def _share(what: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise UserError(f"got {what}={value}, expected a share from 0 to 1")


def _rate(what: str, value: float) -> None:
    if not 0 < value < 10:
        raise UserError(f"got learning rate {value!r} for {what}, expected for example 1e-4")


def _seed(value: int) -> None:
    if not 0 <= value < 2**63:
        raise UserError(f"got seed={value}, expected 0 to 2**63 - 1; choose another")


@dataclass(frozen=True, kw_only=True)
class TextRecipe:
    """Which text is trained on, and which is kept for evaluation."""

    source: str
    """A Hugging Face dataset id, a dataset folder, a .jsonl[.gz], .parquet or .txt file, a folder
    or glob of those, or `python-stdlib`."""
    options: TextOptions = field(default_factory=TextOptions)
    """How documents are read from the source."""
    eval_source: str | None = None
    """Text to evaluate on; documents it shares with the source are not trained on. None holds a
    part of the source out."""
    holdout: float = 0.05
    """Share of the source's documents that is held out where there is no text to evaluate on."""
    contexts: ContextOptions = field(default_factory=ContextOptions)
    """How documents are packed into contexts."""
    exclusion: ExclusionOptions = field(default_factory=ExclusionOptions)
    """Special tokens left out of training or evaluation."""
    on_exhausted: str = "repeat"
    """What to do when the text ends before the token budget: `repeat` (another epoch) or `stop`."""
    split_seed: int | None = None
    """Seed of the choice of documents that are held out; None takes the run's."""

    def __post_init__(self) -> None:
        one_of("on_exhausted", self.on_exhausted, EXHAUSTED)
        if not 0 < self.holdout < 1:
            raise UserError(
                f"got holdout={self.holdout}, expected a share above 0 and below 1, such as 0.05"
            )


@dataclass(frozen=True, kw_only=True)
class BufferRecipe:
    """The buffer that activations are shuffled in."""

    contexts: int = 128 * 32
    """Contexts that the buffer holds."""
    refill: float = 0.5
    """Share of the buffer that is served before it is filled up and shuffled again."""
    harvest_contexts: int = 32
    """Contexts in each forward pass of the language model."""
    device: str = "cpu"
    """Where the buffer lives; CPU memory leaves an accelerator's memory to the layers."""
    dtype: str = "float32"
    """Type it stores activations in: `float32`, or `bfloat16` for half the memory."""
    prefetch: int | None = None
    """Passes of the language model made ahead by a background thread while layers train; the result
    is the same. None makes none ahead on the CPU, where both would share the cores, and 2 on an
    accelerator."""

    def __post_init__(self) -> None:
        at_least("contexts", self.contexts, 1)
        at_least("harvest_contexts", self.harvest_contexts, 1)
        one_of("dtype", self.dtype, ("float32", "bfloat16"))
        if self.prefetch is not None:
            at_least("prefetch", self.prefetch, 0)
        if not 0 < self.refill <= 1:
            raise UserError(f"got refill={self.refill}, expected a share above 0 and up to 1")


@dataclass(frozen=True, kw_only=True)
class OptimizerRecipe:
    """How the layers are trained."""

    loss: str = "normalized_mse"
    """`normalized_mse`, or `reference` (the reference code's)."""
    lr: dict[str, float] = field(default_factory=dict)
    """Learning rate for single architectures; the others have `default_lr`."""
    default_lr: float = 1e-4
    """Learning rate of AdamW."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates."""
    weight_decay: float = 0.0
    """AdamW's weight decay."""
    warmup_steps: int = 5000
    """Steps of linear warm-up, at most."""
    warmup_share: float = 0.04
    """Share of all steps that warm-up takes at most; the smaller of the two counts."""
    decay_share: float = 0.0
    """Share of all steps, at the end, over which the learning rate falls linearly to zero."""
    batch_tokens: int = 4096
    """Tokens in a step."""
    micro_tokens: int | None = None
    """Tokens that a layer's dense part computes at one time, to save memory; None takes a whole
    batch, and halves it when memory runs out. The step is the same but for rounding."""
    clip_norm: float | None = None
    """Largest norm of a layer's gradient; None leaves gradients as they are."""
    l1_coefficient: float = 1e-3
    """Weight of the mean sum of coefficients in the loss, for `l1` layers."""
    auxk_coefficient: float = 0.0
    """Weight of the auxiliary loss that lets dead units reconstruct the error; 0 turns it off."""
    auxk_units: int | None = None
    """Dead units that the auxiliary loss uses for a token; None takes half of d_out."""
    dead_after_tokens: int = 1_000_000
    """Tokens without firing after which a unit counts as dead in training."""

    def __post_init__(self) -> None:
        loss_function(self.loss)
        at_least("batch_tokens", self.batch_tokens, 1)
        if self.micro_tokens is not None:
            at_least("micro_tokens", self.micro_tokens, 1)
            if self.auxk_coefficient:
                raise UserError(
                    f"got micro_tokens={self.micro_tokens} with an auxiliary loss for dead units, "
                    "expected one of the two: that loss is a ratio of sums over the whole batch; "
                    "set auxk_coefficient to 0, or make the batch smaller"
                )
        at_least("warmup_steps", self.warmup_steps, 0)
        for name, rate in {**self.lr, "default_lr": self.default_lr}.items():
            _rate(name, rate)
        for name in self.lr:
            one_of("architecture", name, tuple(ARCHITECTURES))
        for name in ("warmup_share", "decay_share"):
            _share(name, getattr(self, name))
        for name in ("weight_decay", "l1_coefficient", "auxk_coefficient"):
            at_least(name, getattr(self, name), 0)
        at_least("dead_after_tokens", self.dead_after_tokens, 1)
        if self.auxk_units is not None:
            at_least("auxk_units", self.auxk_units, 1)
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise UserError(f"got clip_norm={self.clip_norm}, expected more than 0, or None")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"got betas={self.betas}, expected two numbers from 0 to below 1")

    def learning_rate(self, architecture: str) -> float:
        """The learning rate of an architecture."""
        return self.lr.get(architecture, self.default_lr)


@dataclass(frozen=True, kw_only=True)
class StudentSpec:
    """One layer to train at each site."""

    architecture: str
    """`mxd`, `transcoder`, `skip_transcoder`, `topk_autoencoder`, `dense_mlp`, `mlp_transcoder`."""
    k: int = 32
    """Active units for a token."""
    seed: int = 42
    """Seed of its initialisation."""
    lr: float | None = None
    """Learning rate, instead of the recipe's; several at once make a grid."""
    variant: str | None = None
    """Label of a student whose layer differs from the recipe's: lower-case letters, digits, dashes;
    it ends the student's name."""
    options: LayerOverrides = field(default_factory=LayerOverrides)
    """What differs."""

    def __post_init__(self) -> None:
        one_of("architecture", self.architecture, tuple(ARCHITECTURES))
        at_least("k", self.k, 1)
        _seed(self.seed)
        if self.lr is not None:
            _rate(self.architecture, self.lr)
        if self.variant is not None:
            variant_name(self.variant)
        elif self.options.given():
            raise UserError(
                f"got options {', '.join(self.options.given())} for a student without a variant, "
                "expected a label that tells it from the others; give variant"
            )
        check_applies(self.architecture, self.options)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A run: text, sites, students and how they are trained."""

    text: TextRecipe
    """Text for training and evaluation."""
    layers: tuple[int, ...] = ()
    """Indices of the blocks whose MLP is taken apart."""
    sites: tuple[str, ...] = ()
    """Modules to take apart by name, in addition to `layers`."""
    students: tuple[StudentSpec, ...] = (StudentSpec(architecture="mxd"),)
    """Layers to train at each site, all from one pass of the language model."""
    tokens: int = 480_000_000
    """Token budget of the training."""
    layer: LayerRecipe = field(default_factory=LayerRecipe)
    """Options of the layers."""
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    """How they are trained."""
    buffer: BufferRecipe = field(default_factory=BufferRecipe)
    """The buffer that activations are shuffled in."""
    text_shards: int | None = None
    """Parts that the documents are dealt out to, each with a share of every batch and of the
    buffer; they decide what is computed, while who reads them does not, so that a run can go on
    with another number of processes. None takes one for each process; one for a cache."""
    seed: int = 42
    """Seed of the order of activations and of the split of the text."""
    precision: str = "auto"
    """Matrix products in training: `float32`, `bf16` (autocast; weights and optimizer stay in
    float32), or `auto` (bf16 where the hardware multiplies it natively)."""
    device: str = "cpu"
    """Where the language model and the layers run."""
    dtype: str = "float32"
    """Type that the language model is loaded in, for the record; whoever loads it sees to it."""
    load_in: str | None = None
    """What its linear layers are quantised to, `8bit` or `4bit`, for the record likewise; None
    leaves them as they are."""
    log_every: int = 50
    """Steps between two lines of metrics."""
    track_experts: int = 4
    """Experts of each MxD whose smallest singular value is followed, about 20 times in a run; 0
    turns it off."""
    compile_model: bool = False
    """Run the language model's blocks through torch.compile, those without a site; activations
    then differ from the plain model's by rounding."""
    trackers: tuple[str, ...] = ()
    """Further trackers: `wandb`, `trackio` (both need the extra `trackers`)."""
    name: str = "custom"
    """Which named recipe this began as."""
    activations: str | None = None
    """Folder of a cache of activations that `mxd harvest` wrote, read instead of running the model;
    None runs it. The text is then the cache's."""
    activations_order: str = "shuffled"
    """How a cache is read into the buffer: `shuffled` across its shards, or as it was `harvested`,
    which trains the same layers as the text itself, bit for bit, where both buffers and the cache
    have one type."""
    verify_activations: bool = True
    """Compare the checksum of each file of a cache before it is first used."""

    def __post_init__(self) -> None:
        one_of("precision", self.precision, PRECISIONS)
        one_of("activations_order", self.activations_order, ORDERS)
        if self.load_in is not None:
            one_of("load_in", self.load_in, QUANTISED)
        at_least("tokens", self.tokens, 1)
        at_least("log_every", self.log_every, 1)
        at_least("track_experts", self.track_experts, 0)
        if self.text_shards is not None:
            at_least("text_shards", self.text_shards, 1)
            self._check_shards(self.text_shards)
        _seed(self.seed)
        if not self.students:
            raise UserError("got no students, expected at least one architecture to train")
        if not self.layers and not self.sites:
            raise UserError("got no layers and no sites, expected at least one MLP to take apart")
        for tracker in self.trackers:
            one_of("tracker", tracker, ("wandb", "trackio"))
        self._check_variants()

    def _check_shards(self, shards: int) -> None:
        batch_tokens = self.optimizer.batch_tokens
        if shards > batch_tokens:
            raise UserError(
                f"got {shards} text shards for batches of {batch_tokens} tokens, expected at least "
                "one token of each shard; give fewer text shards or larger batches"
            )

    def _check_variants(self) -> None:
        meant: dict[str, LayerOverrides] = {}
        for spec in self.students:
            if spec.variant and meant.setdefault(spec.variant, spec.options) != spec.options:
                raise UserError(
                    f"got two meanings of variant {spec.variant!r}, expected the same options "
                    "wherever it stands; give one of them another label"
                )

    def to_dict(self) -> dict[str, Any]:
        """The whole tree, ready for JSON."""
        return asdict(self)
