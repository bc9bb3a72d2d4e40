"""Many students from one pass of the model: what they share, and what they do not."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.tiny_models import tiny_model
from tests.training._parts import SITE, rows_of, same_weights, tiny_recipe
from torch import nn

from mxd.data import (
    ActivationBatch,
    ActivationStream,
    ContextOptions,
    ExclusionOptions,
    pack,
)
from mxd.errors import UserError
from mxd.host import capture, find_site, site_fingerprint
from mxd.layers import MxD
from mxd.training import LayerRecipe, Progress, StudentSpec, TextRecipe, fit, resolve_sites

ALL = ("mxd", "transcoder", "skip_transcoder", "topk_autoencoder", "dense_mlp", "mlp_transcoder")
MANY = tuple(StudentSpec(architecture=a, k=k) for a in ALL for k in (2, 4))
EXCLUDING = TextRecipe(
    source="documents",
    contexts=ContextOptions(length=16),
    exclusion=ExclusionOptions(exclude_from_training=("bos", "w5")),
)


@contextmanager
def counted(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """The token ids of every call of the model."""
    calls: list[torch.Tensor] = []
    hook = model.register_forward_pre_hook(
        lambda _module, args, kwargs: calls.append(kwargs["input_ids"].clone()), with_kwargs=True
    )
    yield calls
    hook.remove()


def test_fit_trains_every_student_at_every_site(model, tokenizer, documents) -> None:
    recipe = tiny_recipe(students=MANY, layers=(0,), sites=(SITE,), tokens=128)
    run = fit(model, tokenizer, recipe, documents=documents)
    assert list(run.layers) == ["transformer.h.0.mlp", SITE]
    names = [f"{a}-k{k}-w24-s42" for a in ALL for k in (2, 4) if a != "dense_mlp"]
    names.insert(8, "dense_mlp-k0-w0-s42")  # it has no K, so there is one
    for students in run.layers.values():
        assert list(students) == names
        assert not any(layer.training for layer in students.values())
        assert all("mean_output" in layer.statistics for layer in students.values())


def test_fit_passes_the_model_as_often_for_one_student_as_for_many(
    model, tokenizer, documents
) -> None:
    with counted(model) as one:
        fit(model, tokenizer, tiny_recipe("mxd"), documents=documents)
    with counted(model) as many:
        fit(model, tokenizer, tiny_recipe(students=MANY, layers=(0, 1)), documents=documents)
    assert len(one) == len(many) == 768 // (8 * 16)
    assert all(torch.equal(a, b) for a, b in zip(one, many, strict=True))


def test_students_do_not_depend_on_each_other(model, tokenizer, documents) -> None:
    together = fit(model, tokenizer, tiny_recipe(students=MANY, layers=(0, 1)), documents=documents)
    for architecture in ALL:
        alone = fit(model, tokenizer, tiny_recipe(architecture), documents=documents)
        ((name, layer),) = alone.layers[SITE].items()
        specs = (*MANY[::-1], StudentSpec(architecture=architecture, k=3))
        again = fit(model, tokenizer, tiny_recipe(students=specs), documents=documents)
        assert same_weights(layer, again.layers[SITE][name])
    reversed_ = fit(model, tokenizer, tiny_recipe(students=MANY[::-1]), documents=documents)
    for name, layer in reversed_.layers[SITE].items():
        assert same_weights(layer, together.layers[SITE][name]), name


def test_same_seed_gives_the_same_weights_and_metrics(
    model, tokenizer, documents, tmp_path: Path
) -> None:
    recipe = tiny_recipe("mxd", "transcoder", layer=LayerRecipe(width=24, random_k=True))
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)  # torch's own random state has no part in it
        out = tmp_path / str(seed)
        runs.append(fit(model, tokenizer, recipe, documents=documents, out=out))
    for name, layer in runs[0].layers[SITE].items():
        assert same_weights(layer, runs[1].layers[SITE][name])
    assert rows_of(tmp_path / "1") == rows_of(tmp_path / "2")
    assert runs[0].record == runs[1].record


def test_another_seed_gives_other_weights(model, tokenizer, documents) -> None:
    def weights(run_seed: int, seed: int) -> nn.Module:
        recipe = tiny_recipe(students=(StudentSpec(architecture="mxd", k=3, seed=seed),))
        run = fit(
            model, tokenizer, tiny_recipe(students=recipe.students, seed=run_seed),
            documents=documents,
        )  # fmt: skip
        return run.layers[SITE][f"mxd-k3-w24-s{seed}"]

    first = weights(0, 0)
    assert not same_weights(first, weights(0, 1))  # another start
    assert not same_weights(first, weights(1, 0))  # another order of the same activations


def test_output_bias_starts_at_the_mean_of_the_first_buffer(model, tokenizer, documents) -> None:
    rate = 1e-9  # nothing moves
    slow = tuple(StudentSpec(architecture=a, k=3, lr=rate) for a in ALL)
    recipe = tiny_recipe(students=slow, tokens=512)
    run = fit(model, tokenizer, recipe, documents=documents)
    contexts = pack(documents, tokenizer, recipe.text.contexts, contexts_per_batch=16)
    _, y = capture(model, [SITE], next(iter(contexts)).tokens)[SITE]
    mean = y.flatten(0, 1).double().mean(0).float()
    for layer in run.layers[SITE].values():
        torch.testing.assert_close(layer.bias.detach(), mean, atol=1e-6, rtol=1e-5)


def test_model_is_left_as_it_was(tokenizer, documents) -> None:
    fresh, used = tiny_model("llama"), tiny_model("llama")
    fit(used, tokenizer, tiny_recipe("mxd", tokens=128), documents=documents)
    assert same_weights(fresh, used)
    assert not any(module._forward_hooks for module in used.modules())


def test_glu_host_gives_glu_students(tokenizer, documents) -> None:
    run = fit(tiny_model("llama"), tokenizer, tiny_recipe("mxd"), documents=documents)
    (layer,) = run.layers["model.layers.1.mlp"].values()
    assert isinstance(layer, MxD)
    assert (layer.config.glu, layer.config.activation, layer.config.d_hidden) == (True, "silu", 48)


def test_mxd_learns_the_mlp(model, tokenizer, documents) -> None:
    seen: list[Progress] = []
    recipe = tiny_recipe("mxd", "dense_mlp", tokens=64 * 250, log_every=25)
    fit(model, tokenizer, recipe, documents=documents, on_progress=seen.append)
    for student in range(2):
        curve = [progress.rows[student]["nmse"] for progress in seen]
        assert curve[-1] < 0.25 * curve[0]
        assert curve[-1] < 0.25
    assert [progress.tokens for progress in seen] == [64 * 25 * i for i in range(1, 11)]
    assert all(progress.total == 64 * 250 for progress in seen)


def test_excluded_tokens_are_recorded_and_never_trained_on(
    model, tokenizer, documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[torch.Tensor] = []
    iterate = ActivationStream.__iter__

    def noting(stream: ActivationStream) -> Iterator[ActivationBatch]:
        for batch in iterate(stream):
            served.append(batch.token_ids)
            yield batch

    monkeypatch.setattr(ActivationStream, "__iter__", noting)
    slow = (StudentSpec(architecture="mxd", k=3, lr=1e-9),)
    recipe = tiny_recipe(text=EXCLUDING, students=slow)
    with counted(model) as passed:
        run = fit(model, tokenizer, recipe, documents=documents)
    excluded = torch.tensor([0, 5])
    assert torch.isin(excluded, torch.cat(passed)).all()  # the model sees them
    assert not torch.isin(torch.cat(served), excluded).any()
    (layer,) = run.layers[SITE].values()
    assert layer.provenance.excluded_token_ids == (0, 5)

    ids = torch.cat(passed)
    _, y = capture(model, [SITE], ids)[SITE]
    kept = y[~torch.isin(ids, excluded)][:256]  # the first buffer: 16 contexts of 16
    torch.testing.assert_close(layer.bias.detach(), kept.mean(0), atol=1e-6, rtol=1e-5)


def test_provenance_and_summary_say_where_a_layer_comes_from(model, tokenizer, documents) -> None:
    run = fit(model, tokenizer, tiny_recipe(), documents=documents, base_model="some/base")
    ((name, layer),) = run.layers[SITE].items()
    provenance = layer.provenance
    assert (provenance.base_model, provenance.site, provenance.student, provenance.seed) == (
        "some/base", SITE, name, 42,
    )  # fmt: skip
    assert provenance.base_fingerprint == site_fingerprint(find_site(model, SITE))
    assert run.base_model == "some/base"
    summary = provenance.training
    said = ("recipe", "text", "tokens", "steps", "epochs", "loss", "lr")
    assert {key: summary[key] for key in said} == {
        "recipe": "custom", "text": "documents", "tokens": 768, "steps": 12, "epochs": 1,
        "loss": "normalized_mse", "lr": 1e-2,
    }  # fmt: skip
    assert summary["data_fingerprint"] == run.record["data"]["fingerprint"]
    assert summary["nmse_last_tenth"] < summary["nmse_tenth_before"]
    assert summary["still_falling"] is True


@pytest.mark.parametrize(("what", "tokens", "epochs"), [("repeat", 4096, 2), ("stop", 2688, 1)])
def test_text_that_ends_is_repeated_or_the_run_stops(
    model, tokenizer, documents, what: Any, tokens: int, epochs: int
) -> None:
    text = TextRecipe(source="d", contexts=ContextOptions(length=16), on_exhausted=what)
    seen: list[Progress] = []
    run = fit(
        model, tokenizer, tiny_recipe(text=text, tokens=4096, log_every=1000),
        documents=documents, on_progress=seen.append,
    )  # fmt: skip
    contexts = sum(len(b.tokens) for b in pack(documents, tokenizer, text.contexts))
    expected = tokens if what == "repeat" else contexts * 16
    data = run.record["data"]
    assert (data["tokens_trained"], data["epochs"]) == (expected, epochs)
    assert [progress.tokens for progress in seen] == [expected]  # the last steps are told too


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": (7,)}, "7"),
        ({"layers": (), "sites": ("h.9",)}, "h.9"),
        ({"students": (StudentSpec(architecture="mxd", k=99),)}, "k=99"),
        ({"layer": LayerRecipe(width=8, shared_experts=3)}, "shared_experts=3"),
        ({"device": "abacus"}, "abacus"),
    ],
)
def test_fit_refuses_what_does_not_fit_the_model(
    model, tokenizer, documents, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        fit(model, tokenizer, tiny_recipe(**changes), documents=documents, out=tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_resolve_sites_names_each_once(model) -> None:
    sites = resolve_sites(model, tiny_recipe(layers=(1, 0), sites=(SITE,)))
    assert [site.name for site in sites] == [SITE, "transformer.h.0.mlp"]


def test_learning_rate_of_its_own_is_in_the_name(model, tokenizer, documents) -> None:
    specs = tuple(StudentSpec(architecture="mxd", k=3, lr=lr) for lr in (1e-3, 3e-3))
    run = fit(model, tokenizer, tiny_recipe(students=specs, tokens=64), documents=documents)
    assert list(run.layers[SITE]) == ["mxd-k3-w24-s42-lr0.001", "mxd-k3-w24-s42-lr0.003"]
    assert [s["lr"] for s in run.record["students"]] == [1e-3, 3e-3]
