import pytest
import torch
import transformers
from tests.helpers.tiny_models import ARCHITECTURES, MIXTURES, expected, tiny_model

from mxd.errors import UserError
from mxd.host import find_mlps, find_site
from mxd.host.skeleton import skeleton_of
from mxd.planning import Unmasked, describe_model, ledger

_LLAMA = {
    "8B": ((4096, 14336, 32, 32), 8_030_261_248),
    "70B": ((8192, 28672, 80, 64), 70_553_706_496),
    "405B": ((16384, 53248, 126, 128), 405_853_388_800),
}
"""Widths d and H, blocks and heads of Llama 3.1, and the parameters of its checkpoints."""


def llama(name):
    (width, hidden, blocks, heads), _ = _LLAMA[name]
    return transformers.LlamaConfig(
        hidden_size=width, intermediate_size=hidden, num_hidden_layers=blocks,
        num_attention_heads=heads, num_key_value_heads=8, vocab_size=128_256,
        max_position_embeddings=131_072, tie_word_embeddings=False, dtype="bfloat16",
    )  # fmt: skip


@pytest.mark.parametrize("name", list(_LLAMA))
def test_llama_has_its_known_number_of_parameters(name):
    skeleton = skeleton_of(llama(name))
    site = find_site(skeleton, 1)
    shape = describe_model(skeleton, [site], name=name, contexts=1, length=16)
    assert shape.parameters == _LLAMA[name][1]
    assert shape.element == 2
    assert shape.counted


def test_operations_of_a_pass_by_hand():
    skeleton, length = skeleton_of(llama("8B")), 128
    d, hidden, kv, blocks = 4096, 14336, 1024, 32
    site = find_site(skeleton, blocks - 1)
    shape = describe_model(skeleton, [site], name="8B", contexts=2, length=length)
    block = 2 * (2 * d * d + 2 * d * kv + 3 * d * hidden) + 4 * length * d
    assert shape.flops_per_token == pytest.approx(blocks * block, rel=1e-4)
    early = describe_model(skeleton, [find_site(skeleton, 3)], name="8B", contexts=2, length=length)
    assert early.flops_per_token == pytest.approx(4 * block, rel=1e-4)
    assert early.blocks_run == 4
    norms, embedding = 2 * d, 128_256 * d
    block_parameters = 2 * d * d + 2 * d * kv + 3 * d * hidden + norms
    assert early.parameters_run == embedding + 4 * block_parameters


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_is_described(arch):
    model = tiny_model(arch)
    skeleton = model.to("meta")
    sites = find_mlps(skeleton)
    shape = describe_model(skeleton, sites, name=arch, contexts=2, length=8)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert {site.d_hidden for site in shape.sites} == {expected(arch).d_hidden}
    assert {site.glu for site in shape.sites} == {expected(arch).glu}
    assert shape.row_values == sum(s.d_in + s.d_out for s in sites)
    assert shape.counted
    assert shape.pass_bytes >= 16 * shape.row_values * 4


@pytest.mark.parametrize("arch", MIXTURES)
def test_a_mixture_of_experts_counts_the_experts_that_run(arch):
    skeleton = tiny_model(arch).to("meta").bfloat16()
    name = "lm_head" if arch == "mixtral" else None
    with Unmasked():
        sites = [find_site(skeleton, name)] if name else find_mlps(skeleton)
    shape = describe_model(skeleton, sites, name=arch, contexts=1, length=8)
    every = sum(p.numel() for p in skeleton.parameters())
    assert shape.parameters == every
    assert 0 < shape.flops_per_token < 2 * every


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_operations_of_a_mixture_are_twice_its_active_parameters(dtype):
    skeleton, length = tiny_model("mixtral").to("meta").to(dtype), 8
    with Unmasked():
        site = find_site(skeleton, "model.layers.1.mlp")
    shape = describe_model(skeleton, [site], name="mixtral", contexts=2, length=length)
    attention, router, expert = 32 * (32 + 16 + 16 + 32), 4 * 32, 3 * 32 * 48
    active = attention + router + 2 * expert  # two of four experts for a token
    assert shape.counted
    assert shape.flops_per_token == 2 * (2 * active + 4 * length * 32)  # two blocks


def test_a_pass_with_unknown_products_is_estimated(monkeypatch):
    skeleton = tiny_model("gpt2").to("meta")
    sites = find_mlps(skeleton)
    counted = describe_model(skeleton, sites, name="m", contexts=1, length=8)
    monkeypatch.setitem(ledger.flop_registry, torch.ops.aten.addmm, None)
    estimated = describe_model(skeleton, sites, name="m", contexts=1, length=8)
    assert (counted.counted, estimated.counted) == (True, False)
    assert estimated.flops_per_token == pytest.approx(counted.flops_per_token, rel=0.05)


def test_contexts_beyond_the_positions_are_refused():
    skeleton = tiny_model("gpt2").to("meta")
    with pytest.raises(UserError, match="at most the 64"):
        describe_model(skeleton, find_mlps(skeleton), name="m", contexts=1, length=65)


def test_every_block_of_a_pass_is_told():
    skeleton, told = tiny_model("gpt2").to("meta"), []
    site = find_site(skeleton, 1)
    describe_model(
        skeleton, [site], name="m", contexts=1, length=8,
        on_block=lambda done, count: told.append((done, count)),
    )  # fmt: skip
    assert told == [(0, 2), (1, 2)]
