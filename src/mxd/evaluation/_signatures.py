"""What can be wrong with a layer: each signature with its meaning, its remedy and its threshold."""

from typing import Literal, NamedTuple

Severity = Literal["severe", "warning", "note"]

PLATEAU_NMSE = 0.5
"""Half of the output's energy is missing: beyond that a flat curve is no good place to stop."""
DEAD_SHARE = 0.3
"""Well-trained layers keep most units alive; a third of them idle is parameters thrown away."""
LEAST_FIRINGS = 10
"""Mean firings of a unit in the text; with fewer, a live unit may well not show."""
ALWAYS_ON_FREQUENCY = 0.9
"""A unit on nine tokens of ten says nothing about a token."""
TOP_SHARE = 0.5
"""One unit carries as much as all the others together."""
STATIC_FACTOR, STATIC_SLACK = 1.05, 0.01
"""static_nmse within 5 % of nmse, or within a hundredth of the output's energy: frozen is as good.
The slack is for layers that are nearly exact, whose tiny errors have no meaningful ratio."""
MEAN_COSINE = 0.9
"""Modulators within some 25° of each other on average do nearly the same."""
TWIN_SHARE = 0.5
"""Every second live unit has another at a cosine of 0.95 or more."""
LEAST_RANK = 0.9
"""Experts of the paper's models keep nearly full rank; a tenth missing is no rounding."""
INTERCHANGEABLE_ENTROPY = 0.5
"""With use as even as this, a gate that explains nothing is choosing among like experts."""


def idle_gate_limit(nmse: float) -> float:
    """The largest `static_nmse` at which a layer of this NMSE is as good with its gate frozen."""
    return STATIC_FACTOR * nmse + STATIC_SLACK


class Signature(NamedTuple):
    """One way in which a layer fails."""

    severity: Severity
    """severe: read nothing else of this layer before it is mended; warning: mend it; note."""
    explanation: str
    """What it means."""
    remedy: str
    """What to do."""


SIGNATURES = {
    "diverged": Signature(
        "severe",
        "training broke down: the error grew or is no number any more",
        "train again with a smaller learning rate (--lr), a longer warm-up or --clip-norm 1",
    ),
    "no_better_than_mean": Signature(
        "severe",
        "the model predicts no better with this layer than with the MLP's mean output in its place",
        "train longer, with a larger learning rate (--lr) or a larger K; check that model, site "
        "and text are those it was trained for",
    ),
    "plateau": Signature(
        "warning",
        "the error has stopped falling where much of the output is still missing",
        "K is too low or the learning rate too small: raise --k, or try rates such as "
        "--lr 3e-4,1e-3",
    ),
    "still_falling": Signature(
        "note",
        "the error was still falling when training ended, so the figures are not the layer's best",
        "train longer (--tokens)",
    ),
    "dead_experts": Signature(
        "warning",
        "many units never fire: their parameters do nothing",
        "train longer or on more varied text, revive units with --auxk-coefficient 0.03, or take "
        "fewer of them (--width)",
    ),
    "too_few_tokens": Signature(
        "note",
        "many units are silent, but in so little text that live ones may be among them",
        "measure on more text: `mxd eval RUN --tokens N`, or `mxd doctor RUN --anew --tokens N`",
    ),
    "zeroed_modulators": Signature(
        "warning",
        "experts whose modulator is zero add nothing when they are chosen",
        "train again with --unit-norm, which keeps every modulator at norm one",
    ),
    "rank_collapse": Signature(
        "warning",
        "a modulator with zeros cuts output dimensions off its expert, which loses rank",
        "train again with --unit-norm or a smaller learning rate; the experts at fault are in the "
        "figures of `mxd eval`",
    ),
    "decoder_rank_collapse": Signature(
        "severe",
        "the shared decoder D has lost rank, and no expert can have more than it",
        "train longer (D starts at zero) or with a smaller learning rate",
    ),
    "always_on_expert": Signature(
        "severe",
        "a unit is on at nearly every token and tells none from another; an MxD that leans on it "
        "is a dense MLP in disguise, faithful and unspecialised",
        "train again from another seed, with a smaller learning rate or more tokens; with "
        "--shared-experts 0 if you asked for shared ones",
    ),
    "one_expert_carries": Signature(
        "warning",
        "one unit carries most of the output, so what the others say about a token counts little",
        "train again with --unit-norm, a smaller learning rate or another seed",
    ),
    "interchangeable_experts": Signature(
        "severe",
        "experts are used evenly but do the same: which one is chosen makes no difference",
        "train longer, start modulators further apart, or use fewer experts (--width) or a "
        "larger K; read nothing into single experts of this layer",
    ),
    "gate_explains_nothing": Signature(
        "severe",
        "with the modulation frozen at its mean the layer is as good: it is a dense MLP in "
        "disguise",
        "train longer or with a larger learning rate, and with less K or a narrower hidden width "
        "(--d-hidden), so that the dense branch alone does not do",
    ),
}
"""Every signature that `diagnose` looks for."""
