import hashlib
import json
import os
import resource
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tests.data._caches import asked, cached, contents
from tests.data.test_stream import LENGTH, numbered, tagging

from mxd.data import fill_cache, plan, read_manifest, readable
from mxd.data.cache import bytes_per_token
from mxd.errors import UserError


def counting(passes, stop_after=None, error=KeyboardInterrupt):
    def harvest(tokens):
        if stop_after is not None and len(passes) == stop_after:
            raise error
        passes.append(tokens.flatten().tolist())
        return tagging(tokens)

    return harvest


def test_shards_hold_what_the_model_gave(tmp_path):
    manifest = cached(tmp_path / "c")
    ids = np.arange(25 * LENGTH)
    held = [load_file(tmp_path / "c" / shard.file) for shard in manifest.shards]
    assert [len(one["token_ids"]) for one in held] == [48, 48, 48, 48, 8]
    assert all(set(one) == {"token_ids", "a/x", "a/y", "b/x", "b/y"} for one in held)
    np.testing.assert_array_equal(np.concatenate([one["token_ids"] for one in held]), ids)
    np.testing.assert_array_equal(
        np.concatenate([one["a/y"] for one in held]), -np.stack([ids, ids], 1).astype(np.float32)
    )
    assert np.concatenate([one["b/y"] for one in held]).shape == (200, 4)
    # Fewer than a block of 1024 ids.
    assert manifest.data_fingerprint == hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest()
    for shard in manifest.shards:
        content = (tmp_path / "c" / shard.file).read_bytes()
        assert (shard.bytes, shard.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert (manifest.complete, manifest.ended_because, manifest.tokens) == (True, "text", 200)
    raw = json.loads((tmp_path / "c" / "manifest.json").read_text())
    assert (raw["format"], raw["format_version"], raw["tokens"]) == ("mxd-activations", 1, 200)
    assert read_manifest(tmp_path / "c") == manifest


def test_bfloat16_rounds_to_nearest(tmp_path):
    cached(tmp_path / "c", contexts=40, dtype="bfloat16", passes_per_shard=99)
    from safetensors.torch import load_file as load_torch

    found = load_torch(tmp_path / "c" / "shard-00000.safetensors")["a/x"][:, 0]
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, torch.arange(320.0).bfloat16())
    assert not torch.equal(found.float(), torch.arange(320.0))


def test_tokens_are_rounded_up_to_passes(tmp_path):
    manifest = cached(tmp_path / "c", tokens_wanted=49)
    assert (manifest.tokens, manifest.ended_because) == (64, "tokens")
    assert [shard.tokens for shard in manifest.shards] == [48, 16]


@pytest.mark.parametrize("bound", [2_000, 5_000, 10_000, 12_345, 20_000])
def test_size_stays_below_its_bound(tmp_path, bound):
    manifest = cached(tmp_path / "c", max_size=bound, contexts=100)
    files = sum(path.stat().st_size for path in (tmp_path / "c").glob("shard-*"))
    assert 0.3 * bound < files == manifest.bytes <= bound
    assert manifest.ended_because == "size"
    assert plan(asked(max_size=bound)).bytes <= bound


def test_plan_is_as_large_as_what_is_written(tmp_path):
    manifest = cached(tmp_path / "c", contexts=300, tokens_wanted=2400, passes_per_shard=50)
    assert bytes_per_token(manifest.sites, "float32") == 4 * (2 + 2 + 1 + 4) + 8
    aim = plan(manifest)
    assert 0.9 * aim.bytes < manifest.bytes <= aim.bytes


def test_bound_below_one_pass_is_refused():
    with pytest.raises(UserError, match=r"got a bound of 700 bytes .* of one pass of the model"):
        plan(asked(max_size=700))


@pytest.mark.parametrize("stop_after", [0, 2, 3, 7, 12])
def test_interrupted_harvest_goes_on_without_running_the_model_again(tmp_path, stop_after):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    cached(whole)
    first, second = [], []
    with pytest.raises(KeyboardInterrupt):
        fill_cache(broken, asked(), counting(first, stop_after), numbered(25))
    kept = stop_after // 3
    found = read_manifest(broken)
    assert (len(found.shards), found.complete) == (kept, False)
    fill_cache(broken, asked(), counting(second), numbered(25))
    assert contents(broken) == contents(whole)
    assert len(second) == 13 - 3 * kept
    assert second[0][0] == kept * 48


def test_finished_harvest_is_left_alone(tmp_path):
    manifest = cached(tmp_path / "c")
    before = contents(tmp_path / "c")
    passes = []
    assert fill_cache(tmp_path / "c", asked(), counting(passes), numbered(25)) == manifest
    assert (passes, contents(tmp_path / "c")) == ([], before)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tokens_wanted": 64}, "tokens_wanted: 10000 there, 64 here"),
        ({"dtype": "bfloat16"}, "dtype: 'float32' there, 'bfloat16' here"),
        ({"text": {"source": "letters"}}, "text.source: 'numbers' there, 'letters' here"),
        ({"sites": asked().sites[:1]}, r"sites: \['a', 'b'\] there, \['a'\] here"),
        ({"base_model": {"name": "x", "revision": None}}, "base_model.name: 'tagging' there"),
    ],
)
def test_another_harvest_in_the_folder_is_refused(tmp_path, change, said):
    cached(tmp_path / "c")
    before = contents(tmp_path / "c")
    with pytest.raises(UserError, match=said):
        fill_cache(tmp_path / "c", asked(**change), tagging, numbered(25))
    assert contents(tmp_path / "c") == before
    fill_cache(tmp_path / "c", asked(**change), tagging, numbered(25), overwrite=True)
    fresh = fill_cache(tmp_path / "d", asked(**change), tagging, numbered(25))
    assert contents(tmp_path / "c") == contents(tmp_path / "d")
    assert fresh.complete


@pytest.mark.parametrize("what", ["file", "folder"])
def test_something_else_in_the_place_is_refused(tmp_path, what):
    out = tmp_path / "c"
    if what == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "mine.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="choose another"):
            fill_cache(out, asked(), tagging, numbered(25), overwrite=overwrite)


def test_disk_without_room_is_refused_with_the_numbers(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=5_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"will take 6\d\d KB more, .* which has 5 KB"):
        fill_cache(tmp_path / "c", asked(), tagging, numbered(25))
    assert not (tmp_path / "c").exists()
    cached(tmp_path / "small", tokens_wanted=16)


def test_failure_before_the_first_shard_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="broken"):
        fill_cache(tmp_path / "c", asked(), counting([], 2, ValueError("broken")), numbered(25))
    assert not (tmp_path / "c").exists()
    with pytest.raises(ValueError, match="broken"):
        fill_cache(tmp_path / "c", asked(), counting([], 5, ValueError("broken")), numbered(25))
    assert len(read_manifest(tmp_path / "c").shards) == 1


def test_disk_that_becomes_full_keeps_finished_shards(tmp_path):
    """The limit on a file's size makes the system refuse a write in mid-file."""
    sizes = [shard.bytes for shard in cached(tmp_path / "whole").shards]
    out, before = tmp_path / "c", resource.getrlimit(resource.RLIMIT_FSIZE)
    passes = []

    def tightening(tokens):
        if len(passes) == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (sizes[1] - 500, before[1]))
        passes.append(1)
        return tagging(tokens)

    try:
        with pytest.raises(UserError, match=r"shard-00001.* cannot be written .* stay good"):
            fill_cache(out, asked(), tightening, numbered(25))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(contents(out)) == ["manifest.json", "shard-00000.safetensors"]
    fill_cache(out, asked(), tagging, numbered(25))
    assert contents(out) == contents(tmp_path / "whole")


def test_progress_ends_with_what_was_written(tmp_path):
    for contexts in (25, 8):
        told = []
        manifest = fill_cache(
            tmp_path / str(contexts), asked(tokens_wanted=64), tagging, numbered(contexts),
            on_progress=told.append,
        )  # fmt: skip
        assert [one.tokens for one in told if one.tokens == 64] == [64]
        assert (told[-1].tokens, told[-1].bytes) == (64, manifest.bytes)


def _killed_at(renaming, out):
    """Harvest in a child process that is killed when a file is written and has no name yet."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    replace, count = Path.replace, []

    def dying(self, target):
        count.append(target)
        if len(count) == renaming:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    try:
        Path.replace = dying
        fill_cache(out, asked(), tagging, numbered(25))
    finally:
        os._exit(1)


@pytest.mark.parametrize(("renaming", "left"), [(4, ".shard-00001.safetensors.new"), (5, None)])
def test_killed_harvest_goes_on(tmp_path, renaming, left):
    """Renamings: the empty manifest, then shard and manifest in turn."""
    out = tmp_path / "c"
    assert _killed_at(renaming, out) == -signal.SIGKILL
    assert len(read_manifest(out).shards) == 1
    assert (out / (left or "shard-00001.safetensors")).is_file()
    passes = []
    fill_cache(out, asked(), counting(passes), numbered(25))
    cached(tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")
    assert len(passes) == 10


@pytest.mark.parametrize(
    ("size", "said"), [(999, "999 bytes"), (1_234_567, "1.23 MB"), (20 * 10**9, "20 GB")]
)
def test_sizes_are_readable(size, said):
    assert readable(size) == said
