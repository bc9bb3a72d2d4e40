"""`mxd harvest`, and `mxd fit` and `mxd sweep` from what it wrote."""

import json
import shutil
from pathlib import Path

import pytest
from tests.cli._parts import as_flags, contents, read_json, small

from mxd.cli import harvest as verb
from mxd.cli.harvest import Size
from mxd.data import readable
from mxd.data.cache import sizing
from mxd.errors import UserError


def flags(text, **changes):
    """The flags of a harvest of blocks 0 and 1, some 1,700 tokens, without --out."""
    chosen = {
        "text": text,
        "layers": "0,1",
        "tokens": 100_000,
        "context": 16,
        "holdout": 0.3,
        "harvest_contexts": 8,
        "dtype": "float32",
        **changes,
    }
    return as_flags(chosen)


@pytest.fixture(scope="module")
def cache(tmp_path_factory, saved, text) -> Path:
    """A finished cache of the tiny GPT-2; copy it to change it."""
    from mxd.cli.main import run

    out = tmp_path_factory.mktemp("caches") / "cache"
    assert run(["harvest", str(saved("gpt2")), *flags(text), "--out", str(out)]) == 0
    return out


def weights(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.safetensors"))
    }


def from_cache(cache: Path, **changes):
    """The flags of a small training without those about text."""
    left_out = {"context": None, "holdout": None, "harvest_contexts": None}
    return small(activations=cache, **{**left_out, **changes})


def test_harvest_then_fit_is_fit(cli, saved, text, cache):
    model = saved("gpt2")
    cli.succeeds("fit", model, *small(text=text, out="live"))
    order = {"activations_order": "harvested"}
    cli.succeeds("fit", model, *from_cache(cache, out="cached", **order))
    assert weights(Path("live")) == weights(Path("cached"))
    live, cached = (read_json(Path(name) / "run.json") for name in ("live", "cached"))
    assert live["data"] == cached["data"]
    assert live["recipe"]["text"] == {**cached["recipe"]["text"], "split_seed": None}
    assert cached["recipe"]["text"]["split_seed"] == 42
    manifest = read_json(cache / "manifest.json")
    assert cached["activations"]["folder"] == str(cache)
    assert cached["activations"]["data_fingerprint"] == manifest["data_fingerprint"]
    figures = [
        read_json(Path(name) / "eval" / "held-out.json")
        for name in ("live", "cached")
        if cli.succeeds("eval", name, "--tokens", 600).code == 0
    ]
    assert figures[0]["layers"] == figures[1]["layers"]


def test_manifest_says_what_was_harvested(cli, saved, text):
    result = cli.succeeds(
        "harvest", saved("gpt2"), *flags(text, tokens=300, dtype=None), "--out", "c",
        "--json", "m.json",
    )  # fmt: skip
    manifest = read_json(Path("m.json"))
    assert manifest == read_json(Path("c/manifest.json"))
    assert (manifest["format"], manifest["format_version"]) == ("mxd-activations", 1)
    assert manifest["base_model"]["name"] == str(saved("gpt2"))
    assert [(s["name"], s["d_in"], s["d_out"]) for s in manifest["sites"]] == [
        ("transformer.h.0.mlp", 32, 32),
        ("transformer.h.1.mlp", 32, 32),
    ]
    assert manifest["text"]["source"] == str(text)
    assert manifest["text"]["holdout"] == 0.3
    assert manifest["contexts"] == {"length": 16, "separator": "eos", "begin_with_bos": True}
    assert (manifest["dtype"], manifest["tokens"]) == ("bfloat16", 384)
    assert (manifest["complete"], manifest["ended_because"]) == (True, "tokens")
    assert manifest["shards"][0]["bytes"] > 384 * (4 * 32 * 2 + 8)
    assert "Harvesting 384 tokens; c will take 10" in result.out
    assert "Next: mxd fit" in result.out


def test_finished_harvest_is_left_as_it_is(cli, saved, text, cache):
    shutil.copytree(cache, "c")
    before = contents(Path("c"))
    result = cli.succeeds("harvest", saved("gpt2"), *flags(text), "--out", "c")
    assert "finished already" in result.out
    assert contents(Path("c")) == before


def test_harvest_with_other_flags_is_refused_and_overwritten_on_request(cli, saved, text, cache):
    shutil.copytree(cache, "c")
    other = flags(text, layers=1)
    cli.refuses(
        ["harvest", saved("gpt2"), *other, "--out", "c"],
        "transformer.h.0.mlp", "--overwrite",
    )  # fmt: skip
    cli.succeeds("harvest", saved("gpt2"), *other, "--out", "c", "--overwrite")
    assert [s["name"] for s in read_json(Path("c/manifest.json"))["sites"]] == [
        "transformer.h.1.mlp"
    ]


def test_interrupted_harvest_says_how_to_go_on(cli, saved, text, cache, monkeypatch):
    bounds = {"shard_bytes": 128 * (4 * 32 * 4 + 8)}  # a pass of the model
    original = verb.HarvestRecipe
    monkeypatch.setattr(verb, "HarvestRecipe", lambda **given: original(**given, **bounds))

    def interrupting(progress):
        if progress.new_tokens == 3 * 128:
            raise KeyboardInterrupt

    def stop(self, progress):
        self.was_called = True
        interrupting(progress)

    with monkeypatch.context() as patch:
        patch.setattr("mxd.cli._harvest_screen._Lines.__call__", stop)
        result = cli("harvest", saved("gpt2"), *flags(text), "--out", "c")
    assert result.code == 130
    assert "3 finished shards with 384 tokens are in c; give the same command again" in result.err
    result = cli.succeeds("harvest", saved("gpt2"), *flags(text), "--out", "c")
    assert "Harvesting 100,096 tokens (384 are there already)" in result.out
    cli.succeeds("harvest", saved("gpt2"), *flags(text), "--out", "d")
    assert contents(Path("c")).keys() == contents(Path("d")).keys()
    for name, content in contents(Path("c")).items():
        if name != "manifest.json":
            assert content == contents(Path("d"))[name]


def test_size_bounds_the_cache(cli, saved, text):
    result = cli.succeeds("harvest", saved("gpt2"), *flags(text, max_size="300KB"), "--out", "c")
    found = sum(path.stat().st_size for path in Path("c").glob("shard-*"))
    assert 200_000 < found <= 300_000
    assert "the bound on the size was reached" in result.out


@pytest.mark.parametrize(
    ("typed", "size"),
    [
        ("20GB", 20 * 10**9), ("512MiB", 512 << 20), ("1.5 kb", 1500), ("700", 700), ("2e3", 2000),
        ("1TiB", 1 << 40), ("3B", 3), ("4KiB", 4096),
    ],
)  # fmt: skip
def test_sizes_are_read(typed, size):
    assert Size().convert(typed, None, None) == size


@pytest.mark.parametrize("typed", ["", "GB", "20XB", "-1", "0", "0.1B", "1e99TB", "nan", "1,5GB"])
def test_other_sizes_are_refused(cli, saved, text, typed):
    cli.refuses(["harvest", saved("gpt2"), *flags(text), f"--max-size={typed}"], "such as 20GB")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"tokens": None}, ["--tokens"]),
        ({"text": None}, ["--text"]),
        ({"text": "nowhere.jsonl"}, ["nowhere.jsonl"]),
        ({"layers": None}, ["no layers"]),
        ({"layers": 9}, ["9"]),
        ({"max_size": 100}, ["100 bytes", "one pass of the model"]),
        ({"context": 4096}, ["4096"]),
        ({"device": "cuda:77"}, ["cuda:77"]),
    ],
)
def test_bad_input_is_refused(cli, saved, text, changes, named):
    cli.refuses(
        ["harvest", saved("gpt2"), *flags(**{"text": text, **changes}), "--out", "c"], *named
    )


def test_disk_without_room_is_refused(cli, saved, text, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=123_000)
    monkeypatch.setattr(sizing.shutil, "disk_usage", lambda path: usage)
    cli.refuses(["harvest", saved("gpt2"), *flags(text), "--out", "c"], "123 KB", "52.1 MB")


def test_folder_of_something_else_is_refused(cli, saved, text):
    Path("c").mkdir()
    Path("c/mine.txt").write_text("mine")
    for more in ([], ["--overwrite"]):
        cli.refuses(["harvest", saved("gpt2"), *flags(text), "--out", "c", *more], "choose another")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"context": 32}, ["--context 32, where it has 16"]),
        ({"holdout": 0.5}, ["--holdout 0.5, where it has 0.3"]),
        ({"text": "other.jsonl"}, ["--text other.jsonl"]),
        ({"separator": "none"}, ["--separator none, where it has eos"]),
        ({"harvest_contexts": 4}, ["--harvest-contexts 4"]),
        ({"dtype": "bfloat16"}, ["--dtype bfloat16, where it has float32"]),
        ({"layers": 2}, ["transformer.h.2.mlp", "transformer.h.0.mlp"]),
    ],
)
def test_flags_that_contradict_the_cache_are_refused(cli, saved, cache, changes, named):
    cli.refuses(["fit", saved("gpt2"), *from_cache(cache, **changes), "--out", "r"], *named)


def test_flags_that_agree_with_the_cache_are_taken(cli, saved, text, cache):
    same = {"context": 16, "text": text, "tokens": 64, "k": 2}
    cli.succeeds("fit", saved("gpt2"), *from_cache(cache, **same), "--out", "r")


@pytest.mark.parametrize("verb", ["fit", "sweep"])
def test_compiling_a_model_that_is_not_run_is_refused(cli, saved, cache, verb):
    cli.refuses([verb, saved("gpt2"), *from_cache(cache, compile_model=True)], "--compile-model")


def test_another_model_is_refused(cli, saved, cache):
    cli.refuses(["fit", saved("gpt2-1"), *from_cache(cache), "--out", "r"], "weights", cache)


def test_cache_that_is_none_is_refused(cli, saved, text, trained):
    for place in ("nowhere", trained, text):
        cli.refuses(["fit", saved("gpt2"), *from_cache(place), "--out", "r"], "manifest.json")


def test_damaged_shard_is_refused_unless_checksums_are_skipped(cli, saved, cache):
    shutil.copytree(cache, "c")
    path = Path("c/shard-00000.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    training = from_cache(Path("c"), tokens=64)
    cli.refuses(["fit", saved("gpt2"), *training, "--out", "r"], "shard-00000", "SHA-256")
    cli.succeeds("fit", saved("gpt2"), *training, "--out", "r", "--skip-checksums")


@pytest.mark.parametrize("flag", ["--skip-checksums", "--activations-order=harvested"])
def test_flags_about_a_cache_need_one(cli, saved, text, flag):
    cli.refuses(["fit", saved("gpt2"), *small(text=text), flag], "without --activations")


def test_manifest_with_text_that_steers_terminals_is_shown_in_one_line(cli, saved, cache):
    shutil.copytree(cache, "c")
    path = Path("c/manifest.json")
    raw = json.loads(path.read_text())
    raw["sites"][0]["name"] = "[red]\x1b[31m\n"
    path.write_text(json.dumps(raw))
    message = cli.refuses(["fit", saved("gpt2"), *from_cache(Path("c"), layers=0), "--out", "r"])
    assert "\x1b" not in message


def test_sweep_trains_from_a_cache(cli, saved, cache):
    cli.succeeds(
        "sweep", saved("gpt2"), *from_cache(cache, out="s", tokens=64), "--eval-tokens", 100
    )
    run = read_json(Path("s/run.json"))
    assert run["activations"]["tokens"] == read_json(cache / "manifest.json")["tokens"]
    assert Path("s/report.html").is_file()


def test_preset_from_a_cache_of_other_text_is_noted(cli, saved, text, cache, monkeypatch):
    told = []

    def stop(*_, further, **__):
        told.extend(further["notes"])
        raise UserError("stop")

    monkeypatch.setattr("mxd.cli.sweep.train", stop)
    flags = ["--preset", "gpt2-124m", "--activations", cache]
    assert cli("sweep", saved("gpt2"), *flags).code == 2
    (note,) = [note for note in told if "Set up otherwise than preset gpt2-124m" in note]
    assert note.endswith(f": --text {text}, --context 16.")


def test_help_says_when_text_is_required(cli):
    def shown(verb):
        return " ".join(cli.succeeds(verb, "--help").out.split("--eval-text")[0].split())

    assert shown("harvest").endswith("[required]")
    assert shown("fit").endswith("[default: that of --activations; required without]")
    assert "--activations or --preset; required without]" in shown("sweep")


def test_last_line_says_what_was_written(cli, saved, text):
    result = cli.succeeds("harvest", saved("gpt2"), *flags(text, tokens=300), "--out", "c")
    size = readable(read_json(Path("c/manifest.json"))["shards"][0]["bytes"])
    (line,) = [line for line in result.out.splitlines() if line.startswith("384 of 384 tokens")]
    assert line.endswith(f"0 s left, {size} written")


def test_prefetching_harvest_writes_the_same(cli, saved, text, cache):
    cli.succeeds("harvest", saved("gpt2"), *flags(text), "--out", "c", "--prefetch", 2)
    assert weights(Path("c")) == weights(cache)
