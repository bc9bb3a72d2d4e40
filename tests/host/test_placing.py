"""Models that are spread, offloaded or quantised are found, looked into and grafted like others."""

import gc
import importlib.util
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.tiny_models import tiny_model, tiny_tokens
from torch import nn

from mxd.errors import UserError
from mxd.host import (
    capture,
    compiled_blocks,
    find_mlps,
    find_site,
    graft,
    input_device,
    is_spread,
    load_model,
    placement_of,
    read_device_map,
    site_fingerprint,
)
from mxd.host._linear import as_projection
from mxd.layers import MxD

pytest.importorskip("accelerate")
OFFLOADED = 1
"""The block that is on the disk."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, Path] = {}

    def save(arch: str) -> Path:
        if arch not in made:
            made[arch] = tmp_path_factory.mktemp("models") / arch
            tiny_model(arch).save_pretrained(made[arch])
        return made[arch]

    return save


def places(model: nn.Module) -> dict[str, int | str]:
    """Everything on the CPU but the parameters of one block, which are on the disk."""
    block = next(n for n, m in model.named_modules() if n.endswith(f".{OFFLOADED}"))
    named = model.named_parameters(remove_duplicate=False)  # the head may be the embedding
    owners = {name.rpartition(".")[0] for name, _ in named}
    outside = {name: "cpu" for name in owners if not name.startswith(f"{block}.")}
    empty = {n: "cpu" for n, m in model.named_modules() if [*m.buffers(recurse=False)]}
    return {block: "disk"} | outside | {n: p for n, p in empty.items() if block not in n}


@pytest.mark.parametrize("arch", ["gpt2", "llama", "opt", "gpt_neox"])
def test_an_offloaded_model_is_the_same_model(saved: Any, arch: str) -> None:
    whole = load_model(saved(arch))
    spread = load_model(saved(arch), device_map=places(whole))
    assert is_spread(spread)
    assert not is_spread(whole)
    assert any(parameter.is_meta for parameter in spread.parameters())
    assert torch.equal(spread(tiny_tokens()).logits, whole(tiny_tokens()).logits)
    for one, other in zip(find_mlps(whole), find_mlps(spread), strict=True):
        assert (one.name, one.d_in, one.d_hidden, one.activation, one.glu, one.boundary) == (
            other.name, other.d_in, other.d_hidden, other.activation, other.glu, other.boundary,
        )  # fmt: skip
        assert other.verified
        assert (other.device, other.dtype) == (torch.device("cpu"), torch.float32)
        assert site_fingerprint(one) == site_fingerprint(other)
        expected, found = (
            capture(whole, [one], tiny_tokens()),
            capture(spread, [other], tiny_tokens()),
        )
        for mine, theirs in zip(found[one.name], expected[one.name], strict=True):
            assert torch.equal(mine, theirs)


@pytest.mark.parametrize("arch", ["gpt2", "opt"])
@pytest.mark.parametrize("excluded", [(), (3,)])
def test_a_layer_is_grafted_into_an_offloaded_block(
    saved: Any, arch: str, excluded: tuple[int, ...]
) -> None:
    whole = load_model(saved(arch))
    spread = load_model(saved(arch), device_map=places(whole))
    outputs = []
    for model in (whole, spread):
        site = find_site(model, OFFLOADED)
        torch.manual_seed(0)
        layer = MxD.from_mlp(site)
        nn.init.normal_(layer.bias)
        layer.provenance.excluded_token_ids = excluded
        with torch.no_grad(), graft(model, {site: layer}):
            outputs.append(model(tiny_tokens()).logits)
        with torch.no_grad():
            assert torch.equal(model(tiny_tokens()).logits, whole(tiny_tokens()).logits)
    assert torch.equal(*outputs)
    assert not torch.equal(outputs[0], whole(tiny_tokens()).logits)


def test_an_offloaded_embedding_is_no_place_for_tokens(saved: Any) -> None:
    whole = load_model(saved("llama"))
    spread = load_model(saved("llama"), device_map={**places(whole), "model.embed_tokens": "disk"})
    assert next(spread.parameters()).is_meta
    assert input_device(spread) == torch.device("cpu")
    assert find_mlps(spread)[0].verified


@pytest.mark.parametrize("way", ["auto", "balanced", "balanced_low_0", "sequential", {"": "cpu"}])
def test_where_there_is_one_device_the_model_is_whole(saved: Any, way: Any) -> None:
    model = load_model(saved("llama"), device_map=way)
    assert placement_of(model) == {}
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(
        model(tiny_tokens()).logits, load_model(saved("llama"))(tiny_tokens()).logits
    )


def test_what_is_offloaded_goes_with_the_model(
    saved: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = load_model(saved("gpt2"), device_map=places(tiny_model("gpt2")), dtype="bfloat16")
    assert placement_of(model)["placement"]["device_map"]["transformer.h.1"] == "disk"
    assert list(tmp_path.iterdir())
    del model
    gc.collect()
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="cannot be loaded"):  # a block without a place
        load_model(saved("gpt2"), device_map={"transformer.h.1": "disk"})
    assert not list(tmp_path.iterdir())


def test_a_spread_model_is_not_compiled(saved: Any) -> None:
    spread = load_model(saved("gpt2"), device_map=places(tiny_model("gpt2")))
    with (
        pytest.raises(UserError, match="spread or quantised"),
        compiled_blocks(spread, [find_site(spread, 2)]),
    ):
        pass


@pytest.mark.parametrize(
    ("how", "named"),
    [
        ({"device_map": "everywhere"}, "'everywhere', expected one of auto"),
        ({"device_map": {}}, "empty device map"),
        ({"device_map": {"": "nowhere"}}, "'nowhere'"),
        ({"device_map": {"": 7}}, "cuda:7"),
        ({"device_map": {"": True}}, "True for module ''"),
        ({"load_in": "2bit"}, "'2bit'"),
        ({"tensor_parallel": True}, "single process"),
        ({"tensor_parallel": True, "device_map": "auto"}, "expected one of the two"),
        ({"tensor_parallel": True, "load_in": "8bit"}, "expected one of the two"),
    ],
)
def test_what_cannot_be_is_refused(saved: Any, how: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        load_model(saved("gpt2"), **how)


@pytest.mark.parametrize(
    ("how", "missing"),
    [
        ({"device_map": "auto"}, "accelerate"),
        ({"tensor_parallel": True}, "accelerate"),
        ({"load_in": "8bit"}, "bitsandbytes"),
        ({"load_in": "4bit", "device_map": "auto"}, "bitsandbytes"),
    ],
)
def test_a_missing_package_is_named(
    saved: Any, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any], missing: str
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing else found(name)
    )
    with pytest.raises(UserError, match=rf"needs {missing}.*pip install .*\[big\]"):
        load_model(saved("gpt2"), **how)


def test_a_device_map_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "map.json"
    file.write_text(json.dumps({"model": "cpu", "lm_head": "disk"}))
    assert read_device_map(str(file)) == {"model": "cpu", "lm_head": "disk"}
    assert [read_device_map(word) for word in ("auto", None)] == ["auto", None]
    for content in ("[1]", "{", '{"model": 1.5}', '{"model": "nowhere"}', "{}"):
        file.write_text(content)
        with pytest.raises(UserError):
            read_device_map(str(file))
    with pytest.raises(UserError, match="expected one of auto, balanced"):
        read_device_map(str(tmp_path / "missing.json"))


def test_a_packed_layer_has_the_widths_that_it_says() -> None:
    class Linear4bit(nn.Linear):
        pass

    packed = Linear4bit(32, 48)
    packed.weight = nn.Parameter(torch.zeros(768, 1, dtype=torch.uint8), requires_grad=False)
    projection = as_projection("up", packed)
    assert projection is not None
    assert (projection.d_from, projection.d_to) == (32, 48)


@pytest.mark.parametrize("arch", ["gpt2", "llama"])
@pytest.mark.parametrize(("bits", "near"), [("8bit", 0.02), ("4bit", 0.15)])
def test_a_quantised_model_is_understood(saved: Any, arch: str, bits: str, near: float) -> None:
    pytest.importorskip("bitsandbytes")
    whole, packed = load_model(saved(arch)), load_model(saved(arch), load_in=bits)
    again = load_model(saved(arch), load_in=bits, device_map={"": "cpu"})
    sites = zip(find_mlps(whole), find_mlps(packed), find_mlps(again), strict=True)
    for one, other, same in sites:
        assert (one.d_in, one.d_out, one.d_hidden, one.activation, one.glu) == (
            other.d_in, other.d_out, other.d_hidden, other.activation, other.glu,
        )  # fmt: skip
        assert other.verified
        assert other.dtype == torch.float32
        assert site_fingerprint(other) == site_fingerprint(same) != site_fingerprint(one)
        dense, unpacked = one.dense_weights(), other.dense_weights()
        for wanted, found in ((dense.encoder, unpacked.encoder), (dense.decoder, unpacked.decoder)):
            assert found.shape == wanted.shape
            assert 0 < float((found - wanted).norm() / wanted.norm()) < near
    site = find_site(packed, 1)
    layer = MxD.from_mlp(site)
    with torch.no_grad(), graft(packed, {site: layer}):
        assert packed(tiny_tokens()).logits.isfinite().all()
    with pytest.raises(UserError, match="quantised"), compiled_blocks(packed, [site]):
        pass
