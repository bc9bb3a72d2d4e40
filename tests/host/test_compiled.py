"""Compiled blocks give the same activations, and the model comes back as it was."""

import pytest
import torch
from tests.helpers.tiny_models import VOCABULARY, tiny_model

from mxd.errors import UserError
from mxd.host import capture, compiled_blocks, find_mlps


def test_compiled_blocks_give_the_activations_of_the_plain_model() -> None:
    model = tiny_model("llama")
    sites = find_mlps(model)
    ids = torch.randint(VOCABULARY, (2, 16), generator=torch.Generator().manual_seed(0))
    plain = capture(model, [sites[2]], ids)
    with compiled_blocks(model, [sites[2]], "aot_eager") as count:  # needs no C++ compiler
        assert count == 2
        calls = {block: block._compiled_call_impl for block in model.model.layers}
        assert [call is not None for call in calls.values()] == [True, True, False]
        found = capture(model, [sites[2]], ids)
    for mine, oracle in zip(found[sites[2].name], plain[sites[2].name], strict=True):
        torch.testing.assert_close(mine, oracle, rtol=1e-4, atol=1e-5)
    assert all(block._compiled_call_impl is None for block in model.model.layers)
    again = capture(model, [sites[2]], ids)
    assert all(
        torch.equal(a, b) for a, b in zip(again[sites[2].name], plain[sites[2].name], strict=True)
    )


def test_blocks_with_sites_and_those_after_the_last_stay_as_they_are() -> None:
    model = tiny_model("gpt2")
    sites = find_mlps(model)
    for chosen, expected in (([0], 0), ([1], 1), ([0, 2], 1), ([0, 1, 2], 0)):
        with compiled_blocks(model, [sites[i] for i in chosen]) as count:
            assert count == expected
    with (
        pytest.raises(ValueError, match="left"),
        compiled_blocks(model, [sites[2]]),
    ):
        raise ValueError("left")
    assert all(block._compiled_call_impl is None for block in model.transformer.h)


def test_no_sites_are_refused() -> None:
    with (
        pytest.raises(UserError, match="expected sites in blocks"),
        compiled_blocks(tiny_model("gpt2"), []),
    ):
        pass
