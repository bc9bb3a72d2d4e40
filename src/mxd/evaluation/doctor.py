"""What is wrong with a layer, told from its figures."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mxd.evaluation import _signatures as limits
from mxd.evaluation._signatures import SIGNATURES, Severity

Figures = Mapping[str, Any]
Key = tuple[str, str]
"""Site and name of a layer."""
SEVERITIES: tuple[Severity, ...] = ("severe", "warning", "note")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One failure signature in one layer."""

    signature: str
    """Which: a key of `SIGNATURES`."""
    severity: Severity
    """`severe`, `warning` or `note`."""
    site: str
    """Name of the module that the layer replaces."""
    layer: str
    """Name of the student."""
    figure: str
    """The figure that shows it, a key of the evaluation's document."""
    value: float | None
    """Its value; None where it is not finite."""
    threshold: float
    """The value from which on it is a finding."""
    detail: str
    """The figure beside what it is compared with, in words."""
    explanation: str
    """What that means."""
    remedy: str
    """What to do about it."""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Sign:
    """A signature that was seen, with what shows it."""

    signature: str
    figure: str
    value: float | None
    threshold: float
    detail: str


@dataclass(frozen=True)
class _Patient:
    """Everything known of one layer; a part that was not measured is empty."""

    layer: Figures
    training: Figures
    rank: Figures
    similarity: Figures
    base: float
    mean_ablation: float | None
    tokens: float


def diagnose(
    evaluation: Figures, training: Mapping[Key, Figures] | None = None
) -> dict[Key, list[Finding]]:
    """Name the failure signatures that an evaluation shows.

    Args:
        evaluation: the document of `mxd eval`; without `geometry` and `specialisation`, what needs
            those is not looked for.
        training: training summary of each (site, name), as in its config.json; without it, nothing
            is said about the course of training.

    Returns:
        For each (site, name) its findings, the severest first; none for a healthy layer.
    """
    return {
        (layer["site"], layer["name"]): sorted(
            (
                Finding(
                    **asdict(sign), site=layer["site"], layer=layer["name"],
                    **SIGNATURES[sign.signature]._asdict(),
                )
                for sign in _signs(_patient(evaluation, layer, training or {}))
            ),
            key=lambda finding: SEVERITIES.index(finding.severity),
        )
        for layer in evaluation["layers"]
    }  # fmt: skip


def _patient(evaluation: Figures, layer: Figures, training: Mapping[Key, Figures]) -> _Patient:
    shapes = (one for one in evaluation.get("geometry") or [] if _same(one, layer))
    shape: Figures = next(shapes, {})
    sites = (one for one in evaluation.get("sites") or [] if one["site"] == layer["site"])
    site: Figures = next(sites, {})
    return _Patient(
        layer=layer,
        training=training.get((layer["site"], layer["name"])) or {},
        rank=_part(shape, "rank"),
        similarity=_part(shape, "weighted_similarity") or _part(shape, "similarity"),
        base=_number(evaluation.get("base_cross_entropy")) or 0.0,
        mean_ablation=_number(site.get("mean_ablation_cross_entropy")),
        tokens=_number(evaluation.get("tokens")) or 0.0,
    )


def _signs(of: _Patient) -> Iterator[_Sign]:
    error = _number(of.layer.get("nmse"))
    if of.training.get("diverged") or error is None:
        detail = "NMSE is no number" if error is None else f"NMSE {error:.3g}"
        yield _Sign("diverged", "nmse", error, 1.0, detail)
        return  # every other figure is a consequence
    yield from _training(of, error)
    yield from _dead(of)
    yield from _rank(of)
    yield from _disguise(of, error)


def _training(of: _Patient, error: float) -> Iterator[_Sign]:
    loss = _number(of.layer.get("cross_entropy"))
    # Where a constant predicts as well as the MLP itself, the text says nothing about its layers.
    mean_costs = of.mean_ablation is not None and of.mean_ablation > of.base
    if (
        loss is not None
        and of.mean_ablation is not None
        and mean_costs
        and loss >= of.mean_ablation
    ):
        detail = f"cross-entropy {loss:.4f}, with the mean output {of.mean_ablation:.4f}"
        yield _Sign("no_better_than_mean", "cross_entropy", loss, of.mean_ablation, detail)
    if of.training.get("still_falling") is True:
        last = _number(of.training.get("nmse_last_tenth")) or 0.0
        before = _number(of.training.get("nmse_tenth_before")) or 0.0
        detail = f"training NMSE {last:.3g} in the last tenth, {before:.3g} in the one before"
        yield _Sign("still_falling", "nmse_last_tenth", last, 0.98 * before, detail)
    elif of.training.get("still_falling") is False and error > limits.PLATEAU_NMSE:
        detail = f"NMSE {error:.3g}, and no longer falling"
        yield _Sign("plateau", "nmse", error, limits.PLATEAU_NMSE, detail)


def _dead(of: _Patient) -> Iterator[_Sign]:
    dead, active = (_number(of.layer.get(key)) for key in ("dead_fraction", "l0"))
    units = _number(of.layer.get("width"))
    if dead is None or active is None or not units:
        return
    if dead <= limits.DEAD_SHARE:
        return
    detail = f"{dead:.0%} of {units:,.0f} units never fire in {of.tokens:,.0f} tokens"
    enough = (
        limits.LEAST_FIRINGS * units / active if active else 0.0
    )  # none fires: no text would do
    if of.tokens >= enough:
        yield _Sign("dead_experts", "dead_fraction", dead, limits.DEAD_SHARE, detail)
    else:
        detail += f", of {enough:,.0f} that would tell"
        yield _Sign("too_few_tokens", "tokens", of.tokens, enough, detail)


def _rank(of: _Patient) -> Iterator[_Sign]:
    zeroed = _number(of.rank.get("zeroed_modulators")) or 0.0
    if zeroed:
        detail = f"{zeroed:.0f} modulators are zero"
        yield _Sign("zeroed_modulators", "zeroed_modulators", zeroed, 0.0, detail)
    decoder = _number(of.rank.get("decoder_normalised_rank"))
    if decoder is not None and decoder < limits.LEAST_RANK:
        detail = f"normalised rank of D {decoder:.2f}"
        yield _Sign(
            "decoder_rank_collapse", "decoder_normalised_rank", decoder, limits.LEAST_RANK, detail
        )
        return
    keys = ("min_normalised_rank", "min_rank_bound")
    ranks = {key: value for key in keys if (value := _number(of.rank.get(key))) is not None}
    if zeroed:  # those experts have rank 0 and are named already
        ranks.clear()
    figure = min(ranks, key=lambda key: ranks[key], default=None)
    if figure is not None and ranks[figure] < limits.LEAST_RANK:
        detail = f"normalised rank of an expert down to {ranks[figure]:.2f}"
        yield _Sign("rank_collapse", figure, ranks[figure], limits.LEAST_RANK, detail)


def _disguise(of: _Patient, error: float) -> Iterator[_Sign]:
    """The ways of being a dense MLP that calls itself sparse."""
    frequency = _number(of.layer.get("max_expert_frequency"))
    always_on = frequency is not None and frequency > limits.ALWAYS_ON_FREQUENCY
    if frequency is not None and always_on:
        detail = f"the most frequent unit is on at {frequency:.0%} of tokens"
        limit = limits.ALWAYS_ON_FREQUENCY
        yield _Sign("always_on_expert", "max_expert_frequency", frequency, limit, detail)
    share = _number(of.layer.get("top_expert_share"))
    if share is not None and share > limits.TOP_SHARE:
        detail = f"the most frequent unit carries {share:.0%} of the summed norms"
        yield _Sign("one_expert_carries", "top_expert_share", share, limits.TOP_SHARE, detail)
    static, entropy = (_number(of.layer.get(key)) for key in ("static_nmse", "usage_entropy"))
    frozen = limits.idle_gate_limit(error)
    alike = _alike(of)
    if static is not None and static <= frozen:
        even = (entropy or 0.0) >= limits.INTERCHANGEABLE_ENTROPY and not always_on
        name = "interchangeable_experts" if even else "gate_explains_nothing"
        detail = f"NMSE {error:.3g}, with the modulation frozen at its mean {static:.3g}"
        yield _Sign(name, "static_nmse", static, frozen, detail)
        if even:
            return
    if alike is not None:
        yield alike


def _alike(of: _Patient) -> _Sign | None:
    mean, twins = (_number(of.similarity.get(key)) for key in ("mean_cosine", "twin_share"))
    if mean is not None and mean > limits.MEAN_COSINE:
        detail = f"mean cosine {mean:.2f} between live units"
        return _Sign("interchangeable_experts", "mean_cosine", mean, limits.MEAN_COSINE, detail)
    if twins is not None and twins > limits.TWIN_SHARE:
        detail = f"{twins:.0%} of live units have another that does nearly the same"
        return _Sign("interchangeable_experts", "twin_share", twins, limits.TWIN_SHARE, detail)
    return None


def _part(of: Figures, key: str) -> Figures:
    value = of.get(key)
    return value if isinstance(value, Mapping) else {}


def _same(entry: Figures, layer: Figures) -> bool:
    return (entry.get("site"), entry.get("name")) == (layer["site"], layer["name"])


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        found = float(value)
    except OverflowError:  # a whole number of JSON has no largest value
        return None
    return found if math.isfinite(found) else None
