import itertools
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.data._caches import asked, cached, edit_manifest, flip_byte
from tests.data.test_stream import LENGTH, numbered, stream

from mxd._tensor_files import TensorFile
from mxd.data import CachedStream, read_manifest
from mxd.data.cache import CachedRows
from mxd.data.cache import shard as shard_module
from mxd.errors import UserError


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Forty contexts in seven shards."""
    folder = tmp_path_factory.mktemp("caches") / "c"
    cached(folder, contexts=40)
    return folder


def rows_of(folder, sites=("a", "b"), **options):
    defaults = {"dtype": torch.float32, "repeat": False, "least_tokens": 1, "seed": 0}
    return CachedRows(folder, read_manifest(folder), sites, **{**defaults, **options})


def ids_of(rows):
    return torch.cat([part.token_ids for part in rows]).tolist()


def from_cache(folder, **options):
    defaults = {
        "folder": folder,
        "manifest": read_manifest(folder),
        "sites": ["a", "b"],
        "batch_tokens": 10,
        "buffer_tokens": 40,
        "on_exhausted": "stop",
        "seed": 0,
    }
    return CachedStream(**{**defaults, **options})


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("ahead", [0, 2])
def test_every_row_of_an_epoch_comes_once_with_its_activations(cache, shuffle, ahead):
    seen = []
    for part in rows_of(cache, shuffle=shuffle, ahead=ahead, open_shards=2):
        x, y = part.sites["a"]
        assert torch.equal(x[:, 0].long(), part.token_ids)
        assert torch.equal(x, -y)
        assert part.sites["b"][1].shape == (len(part.token_ids), 4)
        seen += part.token_ids.tolist()
    assert sorted(seen) == list(range(40 * LENGTH))
    assert (seen == list(range(40 * LENGTH))) is not shuffle


def test_shuffled_rows_come_from_many_shards_at_once(cache):
    first = next(iter(rows_of(cache)))
    shards = {token // 48 for token in first.token_ids.tolist()}
    assert len(first.token_ids) == 16
    assert len(shards) == 2  # two blocks of a context; by their order any of 21 pairs of shards
    ids = ids_of(rows_of(cache))
    runs = [ids[i] for i in range(0, len(ids), 48)]
    assert len({token // 48 for token in runs}) > 3


def test_each_epoch_and_seed_has_its_own_order(cache):
    total = 40 * LENGTH

    def epochs(seed):
        ids = ids_of(rows_of(cache, repeat=True, limit=2 * total, seed=seed))
        assert sorted(ids[:total]) == sorted(ids[total:]) == list(range(total))
        return ids[:total], ids[total:]

    first, second = epochs(1)
    assert first != second
    assert (first, second) == epochs(1)
    assert first != epochs(2)[0]


def test_unshuffled_stream_serves_what_the_model_would(cache):
    for options in (
        {},
        {"max_tokens": 222, "on_exhausted": "repeat"},
        {"excluded_token_ids": tuple(range(5, 50)), "refill": 0.3},
        {"max_tokens": 1000, "on_exhausted": "repeat", "prefetch": 2},
    ):
        live = stream(numbered(40), **options)
        read = from_cache(cache, shuffle=False, **options)
        for one, other in itertools.zip_longest(live, read):
            assert torch.equal(one.token_ids, other.token_ids)
            assert one.tokens == other.tokens
            for pair, same in zip(one.sites.values(), other.sites.values(), strict=True):
                assert all(torch.equal(a, b) for a, b in zip(pair, same, strict=True))
            assert (live.fingerprint, live.epoch) == (read.fingerprint, read.epoch)


def test_shuffled_stream_serves_the_same_rows(cache):
    served = torch.cat([batch.token_ids for batch in from_cache(cache)]).tolist()
    assert sorted(served) == list(range(40 * LENGTH))
    assert served != torch.cat([b.token_ids for b in from_cache(cache, seed=1)]).tolist()


def test_nothing_is_read_of_other_sites(cache, monkeypatch):
    asked_for = []

    class Noting(TensorFile):
        def rows(self, name, start, stop):
            asked_for.append(name)
            return super().rows(name, start, stop)

    monkeypatch.setattr(shard_module, "TensorFile", Noting)
    (parts,) = {tuple(part.sites) for part in rows_of(cache, sites=["b"])}
    assert parts == ("b",)
    assert set(asked_for) == {"token_ids", "b/x", "b/y"}


def test_site_that_is_not_there_is_refused(cache):
    with pytest.raises(UserError, match=r"got site c, expected one of those in the cache .*: a, b"):
        rows_of(cache, sites=["c"])


def test_cache_smaller_than_a_batch_is_refused(cache):
    with pytest.raises(UserError, match="got 320 tokens of cache in an epoch"):
        list(rows_of(cache, least_tokens=321))


def test_bfloat16_cache_feeds_a_float32_buffer(tmp_path):
    cached(tmp_path / "c", dtype="bfloat16")
    batch = next(iter(from_cache(tmp_path / "c")))
    assert batch.sites["a"][0].dtype == torch.float32
    assert torch.equal(batch.sites["a"][0][:, 0], batch.token_ids.bfloat16().float())


def _rewrite(change):
    def damage(path):
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return damage


def _sizes_again(folder):
    """Let the manifest agree with the size of the damaged file."""
    path = folder / "shard-00001.safetensors"

    def change(raw):
        raw["shards"][1]["bytes"] = path.stat().st_size

    edit_manifest(folder, change)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(), "lacks its file shard-00001"),
        (
            lambda path: path.write_bytes(path.read_bytes()[:-4]),
            "shard-00001.* expected 2\\d\\d\\d",
        ),
        (flip_byte, "shard-00001.* SHA-256"),
    ],
)
def test_damaged_shard_is_named(tmp_path, damage, said):
    cached(tmp_path / "c")
    damage(tmp_path / "c" / "shard-00001.safetensors")
    with pytest.raises(UserError, match=said):
        list(rows_of(tmp_path / "c"))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_rewrite(lambda t: t.pop("b/x")), "lacks the tensor b/x"),
        (_rewrite(lambda t: t.update({"a/x": t["a/x"].half()})), "a/x has type torch.float16"),
        (_rewrite(lambda t: t.update({"a/x": t["a/x"][:, :1].clone()})), r"shape \(48, 1\)"),
        (lambda path: path.write_bytes(b"\x80\x04" + path.read_bytes()), "expected safetensors"),
        (
            lambda path: path.write_bytes(struct.pack("<Q", 1 << 60) + b"{" * 3000),
            "expected safetensors",
        ),
    ],
)
def test_header_that_does_not_fit_is_refused_without_checksums(tmp_path, damage, said):
    cached(tmp_path / "c")
    damage(tmp_path / "c" / "shard-00001.safetensors")
    _sizes_again(tmp_path / "c")
    with pytest.raises(UserError, match=said):
        list(rows_of(tmp_path / "c", verify=False))


def test_checksums_can_be_skipped(tmp_path):
    cached(tmp_path / "c")
    flip_byte(tmp_path / "c" / "shard-00001.safetensors")
    assert len(ids_of(rows_of(tmp_path / "c", verify=False))) == 200


def _set(**values):
    return lambda raw: raw.update(values)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_set(format="mxd-run"), "not the manifest of a cache"),
        (_set(format_version=2), "format version 2"),
        (_set(tokens=7), "expected the 7 that it says"),
        (_set(dtype="float8"), "got dtype 'float8'"),
        (_set(sites=[]), "at least one site"),
        (_set(complete="yes"), "complete"),
        (_set(ended_because="boredom"), "ended_because"),
        (_set(more=1), "more"),
        (lambda raw: raw.pop("text"), "text"),
        (lambda raw: raw["contexts"].pop("length"), "length"),
        (lambda raw: raw["shards"][0].update(file="../shard-00000.safetensors"), "expected 'shard"),
        (lambda raw: raw["shards"][0].update(file="shard-00001.safetensors"), "expected 'shard"),
        (lambda raw: raw["shards"][0].update(tokens=1e3), "tokens"),
        (lambda raw: raw["shards"][0].update(bytes=-1), "bytes=-1"),
        (lambda raw: raw["shards"][0].update(tokens=2**50), "no more than it has room for"),
        (_set(contexts_per_pass=2**40), r"contexts_per_pass \* length"),
        (lambda raw: raw["contexts"].update(length=2**40), r"contexts_per_pass \* length"),
        (_set(device=None), "device"),
        (lambda raw: raw["shards"][0].update(sha256="x"), "sha256"),
        (lambda raw: raw["sites"][0].update(d_in=1 << 40), "d_in"),
        (lambda raw: raw["sites"][1].update(name="a"), "each once"),
    ],
)
def test_manifest_that_lies_is_refused(tmp_path, change, said):
    cached(tmp_path / "c", contexts=4)
    edit_manifest(tmp_path / "c", change)
    with pytest.raises(UserError, match=said):
        read_manifest(tmp_path / "c")


@pytest.mark.parametrize("content", ["", "[1]", "{", "[" * 100_000, "\udcff"])
def test_manifest_that_is_no_json_object_is_refused(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match="damaged"):
        read_manifest(tmp_path)


def test_manifest_that_is_too_large_is_refused_unread(tmp_path):
    cached(tmp_path / "c")
    path = tmp_path / "c" / "manifest.json"
    path.write_bytes(path.read_bytes() + b" " * (8 << 20))
    with pytest.raises(UserError, match="expected at most 8388608"):
        read_manifest(tmp_path / "c")


@pytest.mark.parametrize("shuffle", [True, False])
def test_shard_is_opened_before_room_is_made_for_its_rows(tmp_path, shuffle):
    cached(tmp_path / "c")

    def change(raw):
        raw["tokens"] += 2**45 - raw["shards"][1]["tokens"]
        raw["shards"][1].update(tokens=2**45, bytes=2**51)

    edit_manifest(tmp_path / "c", change)
    with pytest.raises(UserError, match=f"shard-00001.* bytes, expected {2**51}"):
        list(rows_of(tmp_path / "c", shuffle=shuffle))


def test_folder_without_a_manifest_is_refused(tmp_path):
    with pytest.raises(UserError, match="is no cache of activations"):
        read_manifest(tmp_path)


def test_shard_that_is_a_link_is_refused(tmp_path):
    cached(tmp_path / "c")
    path = tmp_path / "c" / "shard-00000.safetensors"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="lacks its file shard-00000"):
        list(rows_of(tmp_path / "c"))


def test_wanted_manifest_is_read_as_written():
    assert asked().to_dict()["shards"] == ()
