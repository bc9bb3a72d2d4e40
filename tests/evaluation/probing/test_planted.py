import json

import pytest
import torch
from tests.evaluation._parts import SITE, random_layer
from tests.evaluation.probing._parts import (
    FIRST,
    N,
    marked_task,
    token_experts,
    token_model,
    write_rows,
)

from mxd.evaluation.probing import load_task, probe, run


@pytest.fixture(scope="module")
def planted(tokenizer, tmp_path_factory):
    model = token_model()
    layers = {
        SITE: {"mxd": token_experts(model), "other": random_layer("transcoder"),
               "dense": random_layer("dense_mlp")}
    }  # fmt: skip
    task = marked_task(tmp_path_factory.mktemp("task"))
    return probe(model, tokenizer, layers, task, selection="both", bootstrap=200)


def test_planted_experts_are_found_with_f1_of_one(planted):
    layer = planted.layers[0]
    assert (layer.name, layer.width, layer.candidates) == ("mxd", N, layer.live_units)
    for number in range(3):
        figures = layer.classes[f"c{number}"]
        assert figures.unit == number
        assert (figures.f1, figures.balanced_accuracy, figures.support) == (1, 1, 10)
        assert figures.f1_ci == (1, 1)
    assert layer.f1_mean == layer.paper_f1_mean == 1
    assert layer.f1_by_k["16"] == layer.f1_by_k["all"] == 1
    assert layer.random_unit_f1 < 0.7


def test_a_random_layer_is_behind_and_the_difference_is_paired(planted):
    _, other = planted.layers
    assert other.f1_mean < 1
    (difference,) = planted.differences
    assert (difference.ours, difference.theirs) == ("mxd", "other")
    assert difference.f1_mean_difference == pytest.approx(1 - other.f1_mean)
    assert 0 < difference.ci[0] <= difference.f1_mean_difference <= difference.ci[1]


def test_layers_without_units_are_passed_over(planted):
    assert [layer.name for layer in planted.layers] == ["mxd", "other"]


def test_document_is_json_and_the_same_twice(planted, tokenizer, tmp_path):
    model = token_model()
    layers = {SITE: {"mxd": token_experts(model), "other": random_layer("transcoder")}}
    task = marked_task(tmp_path)
    again = probe(model, tokenizer, layers, task, selection="both", bootstrap=200).to_dict()
    first = planted.to_dict()
    del first["source"], again["source"]
    assert json.dumps(first, allow_nan=False) == json.dumps(again, allow_nan=False)
    assert "f1_resampled" not in again["layers"][0]


def test_tagged_words_are_found_with_f1_of_one(tokenizer, tmp_path):
    generator = torch.Generator().manual_seed(1)
    rows = []
    for number in range(120):
        words = torch.randint(FIRST, FIRST + N, (8,), generator=generator).tolist()
        tags = ["A" if word == FIRST else "B" if word == FIRST + 1 else "O" for word in words]
        split = "test" if number % 3 == 0 else "train"
        rows.append({"tokens": [f"w{w}" for w in words], "tags": tags, "split": split})
    rows[0] = {"tokens": ["w9"] * 3, "tags": ["rare", "O", "O"], "split": "test"}
    model = token_model()
    task = load_task(write_rows(tmp_path / "tags.jsonl", rows))
    found = probe(model, tokenizer, {SITE: {"m": token_experts(model)}}, task, bootstrap=50)
    classes = found.layers[0].classes
    assert found.level == "token"
    assert found.classes_left_out == {"rare": 0}
    assert (classes["A"].unit, classes["A"].f1) == (0, 1)
    assert (classes["B"].unit, classes["B"].f1) == (1, 1)
    assert set(classes) == {"A", "B", "O"}


def test_rare_tags_keep_their_dense_values(tokenizer, tmp_path, monkeypatch):
    """Of a rare tag the draw of dense training rows would hold none."""
    monkeypatch.setattr(run, "_DENSE_TRAINING_ROWS", 30)
    rows = [
        {"tokens": ["w5", "w6", *(["w3"] if n % 10 == 0 else ["w7"])],
         "tags": ["A", "B", "rare" if n % 10 == 0 else "A"], "split": split}
        for split, count in (("train", 200), ("test", 40)) for n in range(count)
    ]  # fmt: skip
    model = token_model()
    layers = {SITE: {"m": token_experts(model)}}
    kept = []
    collect = run.collect

    def watched(*arguments, dense_rows, **options):
        kept.append((arguments[2], dense_rows))
        return collect(*arguments, dense_rows=dense_rows, **options)

    monkeypatch.setattr(run, "collect", watched)
    task = load_task(write_rows(tmp_path / "tags.jsonl", rows))
    (layer,) = probe(model, tokenizer, layers, task, bootstrap=20).layers
    ((read, dense),) = kept
    labels = [read.labels[row] for row in dense if read.is_train[row]]
    assert labels.count("rare") == 20
    assert 30 < len(labels) < 90
    assert (layer.dense_f1, layer.classes["rare"].f1) == (1, 1)


def test_a_layer_that_never_fires_gets_zeros(tokenizer, tmp_path):
    model = token_model()
    layer = token_experts(model)
    with torch.no_grad():
        layer.gate.bias.fill_(-1e3)
    found = probe(model, tokenizer, {SITE: {"m": layer}}, marked_task(tmp_path), bootstrap=20)
    (dead,) = found.layers
    assert (dead.live_units, dead.candidates, dead.f1_mean) == (0, 0, 0)
    assert dead.classes["c0"].unit is None
    assert dead.classes["c0"].balanced_accuracy == 0.5
    assert set(dead.f1_by_k.values()) == {0}


def test_equal_candidates_cut_the_wider_layer_down(planted):
    ours, theirs = planted.layers
    assert ours.equal_width == theirs.equal_width == min(ours.live_units, theirs.live_units)
    narrow = min(planted.layers, key=lambda layer: layer.live_units)
    assert narrow.f1_equal_candidates == pytest.approx(narrow.f1_mean)


def test_work_is_handed_over_after_each_layer(tokenizer, tmp_path):
    model = token_model()
    layers = {SITE: {"a": token_experts(model), "b": token_experts(model)}}
    seen = []

    def stop(found):
        seen.append(len(found.to_dict()["layers"]))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        probe(model, tokenizer, layers, marked_task(tmp_path), bootstrap=20, on_layer=stop)
    assert seen == [1]
