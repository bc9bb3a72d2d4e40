"""`mxd fit` beside other processes, and what is refused there."""

import pytest
from tests.cli._parts import small


def test_a_layout_for_more_processes_than_there_are_is_refused(cli, saved, text, tmp_path):
    flags = small(text=text, out=tmp_path / "run", layout="data=2")
    cli.refuses(["fit", saved("gpt2"), *flags], "layout 'data=2'", "another number of processes")
    flags = small(text=text, out=tmp_path / "run", layout="rows=2")
    cli.refuses(["fit", saved("gpt2"), *flags], "'rows=2'", "data, students, experts")


def test_more_shards_than_tokens_of_a_batch_are_refused(cli, text, tmp_path):
    flags = small(text=text, out=tmp_path / "run", text_shards=65)
    cli.refuses(["fit", "no-model", *flags], "65 text shards", "batches of 64 tokens")


def test_a_layout_is_looked_at_before_the_model_is_loaded(cli, text, tmp_path):
    flags = small(text=text, out=tmp_path / "run", layout="experts=2")
    cli.refuses(["fit", "no-model", *flags], "layout 'experts=2'")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["sweep", "gpt2", "--text", "x"], "several processes for `mxd sweep`"),
        (["harvest", "gpt2", "--text", "x"], "several processes for `mxd harvest`"),
        (["eval", "run"], "several processes for `mxd eval`"),
        (["fit", "gpt2", *small(text="x", device="cuda:0")], "cuda"),
    ],
)
def test_what_several_processes_cannot_do_is_refused(cli, monkeypatch, arguments, named):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    cli.refuses(arguments, named)


def test_processes_after_the_first_say_which_they_are(cli, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    refused = cli("fit", "gpt2", *small(text="x", text_shards=65))
    assert refused.err.startswith("mxd: process 1: got 65 text shards")
    assert cli("sweep", "gpt2").err == ""  # the first says it for all


def test_text_shards_are_part_of_the_run(cli, saved, text, tmp_path):
    flags = small(text=text, out=tmp_path / "run", text_shards=2, checkpoint_every=5)
    cli.succeeds("fit", saved("gpt2"), *flags)
    files = (tmp_path / "run" / "checkpoints" / "step-00000010").iterdir()
    streams = sorted(path.name for path in files if path.name.startswith("stream"))
    assert streams == ["stream-0.safetensors", "stream-1.safetensors"]
    refused = small(text=text, out=tmp_path / "run", text_shards=4)
    (tmp_path / "run" / "run.json").write_text(
        (tmp_path / "run" / "run.json").read_text().replace('"complete": true', '"complete": false')
    )
    cli.refuses(["fit", saved("gpt2"), *refused, "--resume"], "text_shards", "start a new run")
