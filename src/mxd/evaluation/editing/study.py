"""Selectivity of editing: the rise on a target text against the rise on text to keep."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mxd.evaluation._layers import some_sparse_layers
from mxd.evaluation._sums import SiteLayers
from mxd.evaluation.editing.bench import Bench
from mxd.evaluation.editing.choice import RANKINGS, SIZES, Choice, Plan, checked_plan, choose
from mxd.evaluation.editing.measure import Rises, rises
from mxd.evaluation.editing.ranking import UnitTotals, unit_totals
from mxd.evaluation.editing.results import (
    EditEffect,
    EditingStudy,
    EditSet,
    LayerEditing,
    effect_of,
)
from mxd.evaluation.editing.text import StudyText
from mxd.layers import Layer, SparseLayer


@dataclass(frozen=True)
class _Texts:
    target: StudyText
    keep: StudyText

    @property
    def both(self) -> tuple[StudyText, StudyText]:
        return self.target, self.keep


def editing_study(
    model: nn.Module,
    layers: SiteLayers,
    target: StudyText,
    keep: StudyText,
    *,
    scale: int | float = 0.0,
    rankings: Sequence[str] = RANKINGS,
    sizes: Sequence[int] = SIZES,
    random_draws: int = 5,
    seed: int = 42,
    excluded_token_ids: Sequence[int] = (),
    on_progress: Callable[[str, int, int], None] | None = None,
    on_layer: Callable[[EditingStudy], None] | None = None,
) -> EditingStudy:
    """Edit the units that matter to the target text and not to the other, and measure both.

    For each layer, units are ranked on the first halves of the two texts; the top m of each ranking
    are scaled at once, and the rise of the cross-entropy is measured on the second halves, beside
    the same edit of random live units, of random units that fire as often as the chosen ones, and
    beside the whole layer's output at zero and at its mean.

    Args:
        model: the base model.
        layers: layers by the name of their site and their own; those without units are left out.
        target: the text whose prediction is to suffer.
        keep: the text whose prediction is to stay as it is.
        scale: factor of the units' contributions.
        rankings: `attribution` (first-order effect on the cross-entropy, target less keep) and
            `probing` (difference of mean coefficients, standardised).
        sizes: how many units are edited at once, each in turn.
        random_draws: draws of each random control.
        seed: of those.
        excluded_token_ids: tokens that do not count, in ranking or in measuring.
        on_progress: called with the layer's name, batches measured, and batches in all.
        on_layer: called after each layer with the study as far as it is.

    Raises:
        UserError: no layer with units, an edit that changes nothing, unknown rankings, bad sizes.
    """
    model.eval()
    plan = checked_plan(float(scale), rankings, sizes, random_draws, seed, excluded_token_ids)
    chosen = [
        (site, name, layer)
        for site, of in some_sparse_layers(layers, "to edit").items()
        for name, layer in of.items()
    ]
    benches = _benches(model, chosen, plan)
    study = EditingStudy(
        target.describe(), keep.describe(), 0, plan.scale, plan.rankings, math.nan, math.nan, []
    )
    texts = _Texts(target, keep)
    for site, name, layer in chosen:
        on_batch = _counting(name, texts, on_progress)
        entry, mine, other = _study_layer(benches[site], name, layer, texts, plan, on_batch)
        study = _with_layer(study, entry, mine, other)
        if on_layer is not None:
            on_layer(study)
    return study


def _benches(
    model: nn.Module, layers: Sequence[tuple[str, str, SparseLayer]], plan: Plan
) -> dict[str, Bench]:
    """A bench for each site, which the layers there fit."""
    benches = {site: Bench(model, site, plan.excluded) for site, _, _ in layers}
    for site, _, layer in layers:
        benches[site].check(layer)
    return benches


def _counting(
    name: str, texts: _Texts, say: Callable[[str, int, int], None] | None
) -> Callable[[], None]:
    """A callback for each batch measured."""
    done, total = 0, sum(len(text.measuring) for text in texts.both)

    def count() -> None:
        nonlocal done
        done += 1
        if say is not None:
            say(name, done, total)

    return count


def _with_layer(
    study: EditingStudy, entry: LayerEditing, target: Rises, keep: Rises
) -> EditingStudy:
    return replace(
        study,
        tokens=target.tokens + keep.tokens,
        base_target_cross_entropy=target.base.mean,
        base_keep_cross_entropy=keep.base.mean,
        layers=[*study.layers, entry],
    )


def _study_layer(
    bench: Bench,
    name: str,
    layer: SparseLayer,
    texts: _Texts,
    plan: Plan,
    on_batch: Callable[[], None],
) -> tuple[LayerEditing, Rises, Rises]:
    """One layer's entry, and the sums on the target and on the other text."""
    attribute = "attribution" in plan.rankings
    ranked = [unit_totals(bench, layer, each.ranking, attribute=attribute) for each in texts.both]
    chosen = choose(name, ranked[0], ranked[1], plan)
    target, keep = (
        rises(
            bench,
            layer,
            each.measuring,
            dict.fromkeys(choice.units for choice in chosen),
            scale=plan.scale,
            ablations=_constants(layer),
            on_batch=on_batch,
        )
        for each in texts.both
    )
    return _entry(bench.site.name, name, layer, ranked, chosen, target, keep), target, keep


def _entry(
    site: str,
    name: str,
    layer: SparseLayer,
    ranked: list[UnitTotals],
    chosen: list[Choice],
    target: Rises,
    keep: Rises,
) -> LayerEditing:
    fired = sum(each.fired for each in ranked)
    frequency = torch.as_tensor(fired) / sum(each.tokens for each in ranked)
    edits = [
        EditSet(
            ranking=choice.ranking,
            m=choice.m,
            draw=choice.draw,
            units=choice.units,
            frequency=float(frequency[list(choice.units)].sum()),
            effect=effect_of(target.of(choice.units), keep.of(choice.units), target.gap, keep.gap),
        )
        for choice in chosen
    ]
    return LayerEditing(
        name=name,
        site=site,
        architecture=layer.config.architecture,
        k=layer.config.k,
        width=layer.config.n_units,
        live_units=int((frequency > 0).sum()),
        target_cross_entropy=target.layer.mean,
        keep_cross_entropy=keep.layer.mean,
        ablation={key: _ablation(target, keep, key) for key in ("zero", "mean")},
        edits=edits,
    )


def _constants(layer: Layer) -> dict[str, Tensor]:
    zero = torch.zeros(layer.config.d_out)
    mean = layer.statistics.get("mean_output")
    return {"zero": zero} if mean is None else {"zero": zero, "mean": mean}


def _ablation(target: Rises, keep: Rises, name: str) -> EditEffect | None:
    if name not in target.by_ablation:
        return None
    mine, other = (each.by_ablation[name].estimate() for each in (target, keep))
    return effect_of(mine, other, target.gap, keep.gap)
