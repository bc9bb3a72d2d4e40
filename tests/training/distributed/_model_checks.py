"""What each rank does when the language model itself lies in parts on all of them."""

import os
import signal
from typing import Any

import pytest
import torch
from tests.training.distributed._fit_checks import documents, recipe

from mxd.errors import UserError
from mxd.host import capture, find_mlps, load_model, site_fingerprint
from mxd.training import BufferRecipe, CheckpointOptions, Progress, fit
from mxd.training.distributed import World
from mxd.training.interruption import Interrupted


def train(
    model: str, out: str, changes: dict[str, Any], parts: bool, layout: str | None, **more: Any
) -> None:
    """One training, on a whole model or on one in parts."""
    from tests.training.distributed._preload import TOKENIZER

    host = load_model(model, tensor_parallel=parts)
    fit(host, TOKENIZER, recipe(changes), out=out, documents=documents(43), layout=layout, **more)


def trains(here: World, model: str, out: str, changes: dict[str, Any], layout: str | None) -> None:
    """A training from its beginning to its end."""
    train(model, out, changes, True, layout)


def stops(here: World, model: str, out: str) -> None:
    """A training that a signal to one process stops after some 8 steps."""

    def ask(progress: Progress) -> None:
        if progress.tokens == 512:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        train(model, out, {}, True, None, on_progress=ask, checkpoints=CheckpointOptions())


def sees_the_same(here: World, model: str) -> None:
    """Sites, weights and activations are those of the whole model."""
    whole, parts = load_model(model), load_model(model, tensor_parallel=True)
    ids = torch.arange(1, 25).reshape(2, 12)
    for one, other in zip(find_mlps(whole), find_mlps(parts), strict=True):
        assert (one.name, one.d_in, one.d_out) == (other.name, other.d_in, other.d_out)
        assert (one.d_hidden, one.activation, other.verified) == (48, other.activation, True)
        assert site_fingerprint(one) == site_fingerprint(other)
        expected, found = (capture(m, [s], ids) for m, s in ((whole, one), (parts, other)))
        for mine, theirs in zip(found[one.name], expected[one.name], strict=True):
            assert type(mine) is torch.Tensor
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def refuses(here: World, model: str, other: str, out: str) -> None:
    """What such a model cannot do; all processes say the same."""
    with pytest.raises(UserError, match="plan"):
        load_model(other, tensor_parallel=True)
    with pytest.raises(UserError, match="device map in several processes"):
        load_model(model, device_map="auto")
    ahead = BufferRecipe(contexts=16, harvest_contexts=4, prefetch=1)
    with pytest.raises(UserError, match="got prefetch=1 with tensor parallelism"):
        train(model, out, {"buffer": ahead}, True, None)
    with pytest.raises(UserError, match="in parts on several processes to compile"):
        train(model, out, {"compile_model": True}, True, None)
    cached = {"activations": out, "text_shards": 1}
    with pytest.raises(UserError, match="with a cache of activations"):
        train(model, out, cached, True, None)
