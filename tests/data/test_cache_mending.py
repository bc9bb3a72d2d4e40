"""Caches that were damaged, left unfinished, or are somebody else's folder."""

import json
import shutil

import pytest
import torch
from tests.data._caches import asked, cached, contents, edit_manifest, flip_byte
from tests.data.test_cache_writing import counting
from tests.data.test_stream import numbered, tagging

from mxd._durable_files import passing_name
from mxd._held_folder import held_folder
from mxd.data import Contexts, fill_cache, read_manifest
from mxd.data.cache import sizing
from mxd.errors import UserError


def interrupted(out, passes=7, **changes):
    """A harvest that ended in its seventh pass, after two shards."""
    with pytest.raises(KeyboardInterrupt):
        fill_cache(out, asked(**changes), counting([], passes), numbered(25))
    return contents(out)


def path_of(out, number):
    return out / f"shard-{number:05}.safetensors"


def flip_token_id(path):
    """Change a token id and nothing else."""
    header = int.from_bytes(path.read_bytes()[:8], "little")
    start, _ = json.loads(path.read_bytes()[8 : 8 + header])["token_ids"]["data_offsets"]
    flip_byte(path, 8 + header + start)


@pytest.mark.parametrize("damage", [flip_byte, flip_token_id, lambda path: path.unlink()])
@pytest.mark.parametrize("number", [0, 3, 4])
def test_damage_to_a_finished_cache_is_mended(tmp_path, damage, number):
    cached(tmp_path / "c")
    before = contents(tmp_path / "c")
    damage(path_of(tmp_path / "c", number))
    passes = []
    fill_cache(tmp_path / "c", asked(), counting(passes), numbered(25))
    assert contents(tmp_path / "c") == before
    assert len(passes) == 13 - 3 * number


@pytest.mark.parametrize("damage", [flip_byte, flip_token_id])
@pytest.mark.parametrize("number", [0, 1])
def test_damage_to_an_unfinished_cache_is_mended(tmp_path, damage, number):
    interrupted(tmp_path / "c")
    damage(path_of(tmp_path / "c", number))
    fill_cache(tmp_path / "c", asked(), tagging, numbered(25))
    cached(tmp_path / "whole")
    assert contents(tmp_path / "c") == contents(tmp_path / "whole")


def test_shard_that_became_a_link_is_made_anew(tmp_path):
    cached(tmp_path / "c")
    path = path_of(tmp_path / "c", 0)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    fill_cache(tmp_path / "c", asked(), tagging, numbered(25))
    assert not path.is_symlink()
    assert path.read_bytes() == (tmp_path / "elsewhere").read_bytes()


@pytest.mark.parametrize("number", [0, 2])
def test_mending_that_fails_costs_nothing(tmp_path, number):
    cached(tmp_path / "c")
    flip_byte(path_of(tmp_path / "c", number))
    before = contents(tmp_path / "c")
    with pytest.raises(ValueError, match="broken"):
        fill_cache(tmp_path / "c", asked(), counting([], 0, ValueError("broken")), numbered(25))
    assert contents(tmp_path / "c") == before
    with pytest.raises(ValueError, match="broken"):
        fill_cache(tmp_path / "c", asked(), counting([], 3, ValueError("broken")), numbered(25))
    assert len(read_manifest(tmp_path / "c").shards) == number + 1
    fill_cache(tmp_path / "c", asked(), tagging, numbered(25))
    cached(tmp_path / "whole")
    assert contents(tmp_path / "c") == contents(tmp_path / "whole")


def test_text_that_changed_is_refused(tmp_path):
    before = interrupted(tmp_path / "c")
    other = numbered(25)
    other[0] = Contexts(other[0].tokens + 1, other[0].documents)
    with pytest.raises(UserError, match="text that is not what the finished shards"):
        fill_cache(tmp_path / "c", asked(), tagging, other)
    assert contents(tmp_path / "c") == before


def test_text_that_became_shorter_is_refused(tmp_path):
    before = interrupted(tmp_path / "c")
    for contexts in (3, 11):
        with pytest.raises(UserError, match="text that is not what the finished shards"):
            fill_cache(tmp_path / "c", asked(), tagging, numbered(contexts))
        assert contents(tmp_path / "c") == before
    manifest = fill_cache(tmp_path / "c", asked(), tagging, numbered(12))  # just the two shards
    assert (manifest.complete, manifest.ended_because, manifest.tokens) == (True, "text", 96)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"device": "cuda: H100"}, "device: 'cpu' there, 'cuda: H100' here"),
        ({"versions": {"torch": "9"}}, "versions.torch: '2' there, '9' here"),
        ({"versions": {"torch": "2", "transformers": "8"}}, "versions.transformers: None there"),
    ],
)
def test_other_means_do_not_go_on_with_a_harvest(tmp_path, changes, said):
    versions = {"versions": {"torch": "2"}}
    before = interrupted(tmp_path / "c", **versions)
    changed = asked(**{**versions, **changes})
    with pytest.raises(UserError, match=f"{said}.* --overwrite to start anew"):
        fill_cache(tmp_path / "c", changed, tagging, numbered(25))
    assert contents(tmp_path / "c") == before
    finished = fill_cache(tmp_path / "c", asked(**versions), tagging, numbered(25))
    assert fill_cache(tmp_path / "c", changed, tagging, numbered(25)) == finished
    flip_byte(path_of(tmp_path / "c", 0))
    with pytest.raises(UserError, match=said):
        fill_cache(tmp_path / "c", changed, tagging, numbered(25))


def test_other_versions_that_compute_nothing_go_on(tmp_path):
    interrupted(tmp_path / "c", versions={"numpy": "1"})
    fill_cache(tmp_path / "c", asked(versions={"numpy": "2"}), tagging, numbered(25))


@pytest.mark.parametrize("content", ['{"format": "mxd-run"}', '{"name": "an extension"}', "["])
def test_folder_that_is_no_cache_is_not_overwritten(tmp_path, content):
    out = tmp_path / "c"
    out.mkdir()
    (out / "manifest.json").write_text(content)
    (out / "shard-mine.safetensors").write_text("mine")
    path_of(out, 0).write_text("mine")
    before = contents(out)
    with pytest.raises(UserError, match=r"something other than a cache.*choose another"):
        fill_cache(out, asked(), tagging, numbered(25), overwrite=True)
    assert contents(out) == before


@pytest.mark.parametrize("manifest", [None, "", "{", '{"format": "mxd-activations"}'])
def test_cache_is_overwritten_whatever_its_state(tmp_path, manifest):
    out = tmp_path / "c"
    cached(out, contexts=40)
    if manifest is not None:
        (out / "manifest.json").write_text(manifest)
    (out / ".shard-00009.safetensors.new").write_text("half")
    (out / ".manifest.json.new").write_text("half")
    fill_cache(out, asked(), tagging, numbered(25), overwrite=True)
    cached(tmp_path / "fresh")
    assert contents(out) == contents(tmp_path / "fresh")


def test_overwriting_deletes_files_of_the_cache_alone(tmp_path):
    out = tmp_path / "c"
    cached(out)
    (out / "shard-notes.safetensors").write_text("mine")
    fill_cache(out, asked(), tagging, numbered(8), overwrite=True)
    assert sorted(contents(out)) == [
        "manifest.json", "shard-00000.safetensors", "shard-00001.safetensors",
        "shard-notes.safetensors",
    ]  # fmt: skip


def test_overwritten_cache_counts_as_free_room(tmp_path, monkeypatch):
    size = cached(tmp_path / "c", tokens_wanted=200).bytes
    usage = shutil.disk_usage(tmp_path)._replace(free=5_000)
    monkeypatch.setattr(sizing.shutil, "disk_usage", lambda path: usage)
    again = asked(tokens_wanted=200)
    assert fill_cache(tmp_path / "c", again, tagging, numbered(25), overwrite=True).bytes == size
    with pytest.raises(UserError, match="which has 5 KB"):
        fill_cache(tmp_path / "d", again, tagging, numbered(25), overwrite=True)


def test_nothing_is_written_through_a_link(tmp_path):
    out, victim = tmp_path / "c", tmp_path / "victim"
    interrupted(out, passes=0)
    victim.write_text("mine")
    for name in ("manifest.json", "shard-00000.safetensors"):
        (out / passing_name(name)).symlink_to(victim)
    fill_cache(out, asked(), tagging, numbered(25))
    assert victim.read_text() == "mine"
    assert not [path for path in out.iterdir() if path.is_symlink()]


@pytest.mark.parametrize("overwrite", [False, True])
def test_two_harvests_in_one_folder_are_refused(tmp_path, overwrite):
    out = tmp_path / "c"
    before = interrupted(out)
    with (
        held_folder(out, work="harvest"),
        pytest.raises(UserError, match=r"another harvest is writing to .*, expected one at a time"),
    ):
        fill_cache(out, asked(), tagging, numbered(25), overwrite=overwrite)
    assert contents(out) == before
    during = []

    def tells(progress):
        with pytest.raises(UserError, match="another harvest"):
            fill_cache(out, asked(), tagging, numbered(25))
        during.append(progress)

    fill_cache(out, asked(), tagging, numbered(25), overwrite=overwrite, on_progress=tells)
    assert during


def test_folder_that_nothing_came_into_is_taken_away(tmp_path):
    with held_folder(tmp_path / "c", work="harvest"):
        assert (tmp_path / "c").is_dir()
    assert not (tmp_path / "c").exists()
    (tmp_path / "mine").mkdir()
    with held_folder(tmp_path / "mine", work="harvest"):
        pass
    assert (tmp_path / "mine").is_dir()


class Away(torch.Tensor):
    """CPU memory that says it is an accelerator's until it is moved to the CPU."""

    @property
    def device(self):
        return torch.device("cuda")

    def to(self, *to):
        if to == (torch.device("cpu"),):
            return self.as_subclass(torch.Tensor)
        return super().to(*to)


def test_accelerator_s_activations_are_looked_at_before_they_are_kept(tmp_path):
    passes = []

    def harvest(tokens):
        passes.append(1)
        found = tagging(tokens)
        if len(passes) == 2:
            found["b"][1][0, 0] = torch.nan
        return {name: tuple(t.as_subclass(Away) for t in pair) for name, pair in found.items()}

    wanted = asked(passes_per_shard=1)
    with pytest.raises(UserError, match="NaN or infinite activations at site b in batch 2"):
        fill_cache(tmp_path / "c", wanted, harvest, numbered(25))
    assert len(read_manifest(tmp_path / "c").shards) == 1


def test_harvest_of_more_files_than_a_manifest_lists_is_refused(tmp_path):
    wanted = asked(passes_per_shard=1, tokens_wanted=16 * 30_001)
    with pytest.raises(UserError, match="a harvest of 30,001 files"):
        fill_cache(tmp_path / "c", wanted, tagging, numbered(25))
    assert not (tmp_path / "c").exists()


def test_manifest_of_the_most_files_can_be_read(tmp_path):
    cached(tmp_path / "c")

    def change(raw):
        entry = {**raw["shards"][0], "tokens": 10**9, "bytes": 10**12}
        raw["shards"] = [{**entry, "file": f"shard-{i:05}.safetensors"} for i in range(30_000)]
        raw["tokens"] = 30_000 * 10**9

    edit_manifest(tmp_path / "c", change, indent=2)
    assert len(read_manifest(tmp_path / "c").shards) == 30_000
