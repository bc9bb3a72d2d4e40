"""The steering study: figures against NumPy, planted units, judges that stop."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from tests.evaluation._parts import SITE, random_layer, text
from torch import nn

from mxd.errors import UserError
from mxd.evaluation import find_firing
from mxd.evaluation.judging import JudgeStopped, Usage, Verdict
from mxd.evaluation.steering import (
    Sampling,
    Strength,
    StudyOptions,
    Swept,
    UnitScores,
    choose_units,
    largest_coefficients,
    steering_study,
)
from mxd.layers import SparseLayer

LAST = "transformer.h.2.mlp"


class CountingJudge:
    """Concept is the share of the set's most frequent word, fluency that of distinct words."""

    def __init__(self, name: str = "counting", stops_after: int | None = None) -> None:
        self.name, self.usage, self.stops_after = name, Usage(), stops_after
        self.seen: list[list[str]] = []

    def score(self, sets: Sequence[Sequence[str]]) -> list[Verdict]:
        self.seen += [list(samples) for samples in sets]
        self.usage.verdicts += len(sets)
        verdicts = []
        for samples in sets:
            words = " ".join(samples).split() or ["-"]  # all unknown
            counts = [words.count(word) for word in set(words)]
            verdicts.append(Verdict(max(counts) / len(words), len(counts) / len(words)))
        if self.stops_after is not None and len(self.seen) > self.stops_after:
            failed = [Verdict(failure="gone")] * len(sets)
            raise JudgeStopped("the judge is gone", failed)
        return verdicts


def layer_of(architecture: str = "mxd") -> SparseLayer:
    layer = random_layer(architecture)
    assert isinstance(layer, SparseLayer)
    with torch.no_grad():  # units 2 and 5 never fire
        layer.gate_linear.weight[[2, 5]] = 0
        layer.gate_linear.bias[[2, 5]] = -1
    return layer


def options(**given: object) -> StudyOptions:
    few = Sampling(samples=3, max_new_tokens=6)
    wanted = {"units": 4, "strengths": (Strength(2.0, "max"),), "sampling": few, **given}
    return StudyOptions(**wanted)  # type: ignore[arg-type]


def test_largest_coefficients_are_those_of_the_codes(model: nn.Module) -> None:
    from mxd.host import capture

    layer = layer_of()
    firing = find_firing(model, SITE, layer, text())
    x = torch.cat([capture(model, [SITE], batch.tokens)[SITE][0] for batch in text()])
    expected = layer.encode(x).dense().flatten(0, 1).amax(0)
    torch.testing.assert_close(largest_coefficients(firing), expected)


def test_units_are_the_first_live_the_first_or_random_live(model: nn.Module) -> None:
    firing = find_firing(model, SITE, layer_of(), text())
    alive = [n for n in range(20) if firing.counts[n] > 0]
    live = choose_units(firing, 4)
    assert live.units == alive[:4]
    assert live.dead_skipped == len([n for n in range(alive[3]) if n not in alive])
    assert all(maximum > 0 for maximum in live.maxima)
    first = choose_units(firing, 6, "first")
    assert first.units == [0, 1, 2, 3, 4, 5]
    assert {2, 5} <= set(first.dead)
    assert first.maxima[2] == 0
    drawn = choose_units(firing, 4, "random", seed=1)
    assert set(drawn.units) <= set(alive)
    assert drawn == choose_units(firing, 4, "random", seed=1)
    assert drawn.units != choose_units(firing, 4, "random", seed=2).units
    assert choose_units(firing, 1000).units == alive


def test_layer_without_live_units_is_refused(model: nn.Module) -> None:
    layer = layer_of()
    with torch.no_grad():
        layer.gate_linear.weight.zero_()
        layer.gate_linear.bias.fill_(-1)
    with pytest.raises(UserError, match="none fires"):
        choose_units(find_firing(model, SITE, layer, text()), 4)


def test_figures_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    pairs, other = rng.random((7, 2)), rng.random((7, 2))
    verdicts = [Verdict(*pair) for pair in pairs.tolist()]
    seconds = [Verdict(*pair) for pair in other.tolist()]
    seconds[3] = Verdict(failure="no numbers", answer="hm")
    swept = Swept(
        [UnitScores(n, 1.0, 2.0, {"a": verdicts[n], "b": seconds[n]}, 0.5, n / 7) for n in range(7)]
    )
    found = swept.to_dict()
    a = found["judges"]["a"]
    assert (a["concept"], a["fluency"]) == pytest.approx(tuple(pairs.mean(0)))
    assert a["concept_se"] == pytest.approx(pairs[:, 0].std(ddof=1) / np.sqrt(7))
    np.testing.assert_allclose(a["covariance"], np.cov(pairs.T))
    kept = np.delete(other, 3, axis=0)
    b = found["judges"]["b"]
    assert (b["sets"], b["failed"]) == (6, 1)
    assert b["concept"] == pytest.approx(kept[:, 0].mean())
    both = (pairs + other) / 2
    both[3] = pairs[3]
    assert found["judges"]["mean"]["fluency"] == pytest.approx(both[:, 1].mean())
    assert found["distinct_2"] == pytest.approx(np.mean(np.arange(7) / 7))
    assert found["per_unit"][3]["judges"]["b"]["answer"] == "hm"
    single = Swept(swept.per_unit[:1]).to_dict()["judges"]["a"]
    assert (single["concept_se"], single["covariance"]) == (None, None)


@pytest.mark.parametrize("batch_rows", [5, 256])
def test_planted_units_write_their_tokens(tokenizer, batch_rows: int) -> None:
    """Unit n has the direction of token 10 + n, so a large strength makes the model write it."""
    from tests.helpers.tiny_models import tiny_model

    model, layer = tiny_model("gpt2"), layer_of("transcoder")
    with torch.no_grad():
        norm, head = model.transformer.ln_f, model.lm_head.weight
        for unit in range(20):
            direction = (head[10 + unit] - head.mean(0)) * norm.weight
            layer.unit_rows[unit] = direction - direction.mean()
    judge = CountingJudge()
    still = Sampling(samples=3, max_new_tokens=6, frequency_penalty=0.0)
    study = steering_study(
        model, tokenizer, {LAST: {"planted": layer}}, text(), [judge],
        options(
            prompt="w3 w4", strengths=(Strength(3000.0),), sampling=still, batch_rows=batch_rows
        ),
    )  # fmt: skip
    (found,) = study.layers
    ((_, own, control),) = found.strengths
    assert control is not None
    for scores in own.per_unit:
        assert scores.verdicts["counting"].concept == 1
        assert scores.distinct_1 == 1 / 18
    # the first two sets are those of the base model and of the layer as it is
    assert judge.seen[2:6] == [[" ".join([f"w{10 + unit}"] * 6)] * 3 for unit in found.units]
    planted = {f"w{10 + unit}" for unit in found.units}
    controls = {word for samples in judge.seen[6:] for word in " ".join(samples).split()}
    assert not planted <= controls
    assert (len(own.per_unit), len(control.per_unit)) == (4, 4)


def test_dead_units_of_the_first_have_no_multiples(model: nn.Module, tokenizer) -> None:
    both = (Strength(2.0, "max"), Strength(100.0))
    study = steering_study(
        model, tokenizer, {SITE: {"mxd": layer_of()}}, text(), (),
        options(units=6, choice="first", strengths=both, prompt="w3", random_directions=False),
    )  # fmt: skip
    (found,) = study.layers
    (_, multiples, none), (_, absolute, _) = found.strengths
    assert none is None
    assert {2, 5} <= set(found.dead_steered)
    steered = {each.unit for each in multiples.per_unit}
    assert steered == set(found.units) - set(found.dead_steered)
    assert [each.unit for each in absolute.per_unit] == found.units
    for each in multiples.per_unit:
        assert each.added == pytest.approx(2 * (each.maximum or 0))


def test_judge_that_stops_leaves_the_others_and_what_was_found(model, tokenizer) -> None:
    layers = {SITE: {"a": layer_of("transcoder"), "b": layer_of("mxd")}}
    good, bad = CountingJudge("good"), CountingJudge("bad", stops_after=2)
    seen: list[int] = []
    study = steering_study(
        model, tokenizer, layers, text(), [good, bad], options(prompt="w3"),
        on_layer=lambda found: seen.append(len(found.layers)),
    )  # fmt: skip
    assert seen == [1, 2]
    assert study.stopped == {"bad": "the judge is gone"}
    for layer in study.to_dict()["layers"]:
        judges = layer["strengths"][0]["judges"]
        assert (judges["good"]["failed"], judges["bad"]["failed"]) == (0, 4)
        assert judges["bad"]["concept"] is None
        assert judges["mean"]["concept"] == judges["good"]["concept"]
    assert len(good.seen) == 1 + 2 * (1 + 2 * 4)
    assert len(bad.seen) == 1 + 1 + 4


def test_layer_that_never_fires_is_left_out_and_the_others_go_on(
    model, tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    dead = layer_of()
    with torch.no_grad():
        dead.gate_linear.weight.zero_()
        dead.gate_linear.bias.fill_(-1)
    study = steering_study(
        model, tokenizer, {SITE: {"dead": dead, "alive": layer_of()}}, text(), (),
        options(prompt="w3", random_directions=False),
    )  # fmt: skip
    assert [layer.name for layer in study.layers] == ["alive"]
    assert "no unit of dead fires" in caplog.text
    with pytest.raises(UserError, match="no layer with a unit that fires"):
        steering_study(model, tokenizer, {SITE: {"dead": dead}}, text(), (), options(prompt="w3"))


def test_layers_without_units_and_judges_of_one_name_are_refused(model, tokenizer) -> None:
    dense = {SITE: {"dense": random_layer("dense_mlp")}}
    with pytest.raises(UserError, match="no layer with units"):
        steering_study(model, tokenizer, dense, text(), (), options(prompt="w3"))
    two = [CountingJudge(), CountingJudge()]
    with pytest.raises(UserError, match="judges of the same name"):
        steering_study(
            model, tokenizer, {SITE: {"a": layer_of()}}, text(), two, options(prompt="w3")
        )
    for wrong in ({"units": 0}, {"strengths": ()}, {"sampling": Sampling(samples=1)}):
        with pytest.raises(UserError):
            options(**wrong)
