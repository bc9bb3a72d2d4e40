"""What is measured: shapes, who takes part in each, what they cost in floating-point operations."""

from dataclasses import asdict, dataclass

from benchmarks.engine.protocol import Case

CONTENDERS: dict[str, tuple[str, ...]] = {
    "mxd": ("mxd", "obvious"),
    "transcoder": ("mxd", "obvious", "sparsify", "saelens", "dictlearn"),
}
"""Who can train which architecture."""

TITLES = {
    "mxd": "mxd",
    "obvious": "obvious",
    "sparsify": "sparsify",
    "saelens": "SAELens",
    "dictlearn": "dictionary_learning",
}
"""What contenders are called in tables and pictures."""

WIDE = {"mxd": 0.5, "obvious": 6, "sparsify": 3, "saelens": 8, "dictlearn": 6}
"""About how many (tokens, N) float32 tensors exist at one time; a guard, not a measurement."""

GRID_N = (4096, 16384, 65536, 262144)
GRID_K = (16, 32, 128)
GRID_TOKENS = 512
EMULATED_BF16_TOKENS = 64
"""Tokens of a bf16 step where bf16 is emulated: some products then take fifty times as long."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One case, and who is measured on it."""

    part: str
    """`steps` (the shape of the targets) or `grid` (cost against N and K)."""
    case: Case
    """The step."""
    contenders: tuple[str, ...]
    """Who takes part, in the order of their turns."""
    rounds: int
    """Rounds of repeats, unless the budget is spent."""
    peak: bool
    """Whether memory is measured, too."""

    @property
    def flops(self) -> float:
        """Floating-point operations of one step of everyone, whatever their precision."""
        return sum(step_flops(self.case, name) for name in self.contenders)

    @property
    def title(self) -> str:
        """One line."""
        c = self.case
        return f"{c.architecture} N={c.n} K={c.k} {c.tokens} tokens {c.dtype}"

    def shape(self) -> dict[str, object]:
        """The case as JSON."""
        return {"part": self.part} | asdict(self.case)


def plan(
    *,
    parts: tuple[str, ...] = ("steps", "grid"),
    contenders: tuple[str, ...] = tuple(TITLES),
    quick: bool = False,
    bf16_native: bool = False,
    all_bf16: bool = False,
    device: str = "cpu",
) -> list[Cell]:
    """The cells of a run, in the order they are measured.

    Args:
        parts: `steps`, `grid` or both.
        contenders: who takes part.
        quick: tiny shapes and few repeats, to try everything out.
        bf16_native: whether the processor multiplies bf16 in hardware.
        all_bf16: measure bf16 everywhere and at full size, native or not.
        device: `cpu` or `cuda`.
    """
    full = bf16_native or all_bf16
    cells = []
    if "steps" in parts:
        cells += [
            _target(a, dtype, quick, full) for dtype in ("float32", "bf16") for a in CONTENDERS
        ]
    if "grid" in parts:
        precisions = ("float32", "bf16") if full else ("float32",)
        widths, ks = ((64, 256), (4, 8)) if quick else (GRID_N, GRID_K)
        cells += [
            _grid(a, n, k, dtype, quick)
            for n in widths
            for k in ks
            for dtype in precisions
            for a in CONTENDERS
        ]
    return [_entered(cell, contenders, device) for cell in cells]


def _target(architecture: str, dtype: str, quick: bool, full: bool) -> Cell:
    """GPT-2's shape: 21490 experts have the parameters of 24576 latents."""
    d, hidden, n, k, tokens = 768, 3072, 21490 if architecture == "mxd" else 24576, 32, 4096
    if quick:
        d, hidden, n, k, tokens = 16, 64, 500, 4, 64
    elif dtype == "bf16" and not full:
        tokens = EMULATED_BF16_TOKENS
    case = Case(
        architecture=architecture, d_in=d, d_out=d, d_hidden=hidden, n=n, k=k, tokens=tokens,
        dtype=dtype,
    )  # fmt: skip
    whole = dtype == "float32" or full
    rounds = 2 if quick else 5 if whole else 3
    return Cell(part="steps", case=case, contenders=(), rounds=rounds, peak=whole)


def _grid(architecture: str, n: int, k: int, dtype: str, quick: bool) -> Cell:
    d, hidden, tokens = (16, 64, 32) if quick else (768, 3072, GRID_TOKENS)
    case = Case(
        architecture=architecture, d_in=d, d_out=d, d_hidden=hidden, n=n, k=k, tokens=tokens,
        dtype=dtype,
    )  # fmt: skip
    peak = k == (8 if quick else 32)
    return Cell(part="grid", case=case, contenders=(), rounds=2 if quick else 3, peak=peak)


def _entered(cell: Cell, contenders: tuple[str, ...], device: str) -> Cell:
    able = tuple(name for name in CONTENDERS[cell.case.architecture] if name in contenders)
    case = Case(**asdict(cell.case) | {"device": device})
    return Cell(part=cell.part, case=case, contenders=able, rounds=cell.rounds, peak=cell.peak)


def parameters(case: Case) -> int:
    """Trained numbers of a case."""
    total = case.n * (case.d_in + 1 + case.d_out) + case.d_out
    if case.architecture == "mxd":
        total += case.d_hidden * (case.d_in + 1 + case.d_out)
    return total


def step_flops(case: Case, contender: str) -> float:
    """Multiply-adds counted twice: the matrix products, and a fixed price for the optimizer.

    N-wide products: one where the backward is sparse, five where it is dense.
    """
    wide = 2.0 * case.tokens * case.n * case.d_in
    products = wide * (1 if contender in ("mxd", "sparsify") else 5)
    if case.architecture == "mxd":
        products += 5 * 2.0 * case.tokens * case.d_hidden * case.d_in
    return products + 300 * parameters(case)  # bound by bandwidth: some 300 operations' time


def needed_bytes(case: Case, contender: str) -> int:
    """Rough memory of a step: float32 parameters four times over, and the N-wide tensors."""
    wide = WIDE[contender] * case.tokens * case.n * 4
    rows = case.tokens * case.k * case.d_in * 4 * (2 if contender == "sparsify" else 0)
    return int(16 * parameters(case) + wide + rows + 300e6)
