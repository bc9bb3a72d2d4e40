"""Some hundred spoiled files of every kind do no harm; and the harness sees harm where there is."""

import json
import logging
import os
import pickle
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest
from tests.fuzz.campaign import Tally, Target, chosen, past_first_parse, shares, table, total, tried
from tests.fuzz.guards import in_time
from tests.fuzz.mutations import Mutation, json_mutations
from tests.fuzz.spoiling import spoiled
from tests.fuzz.targets import every_target

from mxd.errors import UserError

MUTATIONS = 300


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)
    logging.captureWarnings(False)


@pytest.mark.filterwarnings("ignore")
def test_spoiled_files_are_read_or_refused(tmp_path: Path) -> None:
    (tmp_path / "outside.bin").write_bytes(b"{}")
    tallies: dict[str, Tally] = {}
    for number, (target, count) in enumerate(
        shares(every_target(tmp_path / "good", tmp_path / "ran", pictures=False), MUTATIONS)
    ):
        work = tmp_path / str(number)
        work.mkdir()
        tallies[target.name] = tried(target, chosen(target, count, random.Random(1)), work)
    whole = total(tallies.values())
    assert not whole.failures, json.dumps(whole.failures[:3], indent=1)
    assert whole.tried > 0.9 * MUTATIONS
    assert whole.loaded + whole.refused == whole.tried
    assert 2 * whole.parsed >= whole.tried, table(tallies)
    assert whole.loaded > 50, table(tallies)
    assert whole.refused > 50, table(tallies)


def target(folder: Path, load: Callable[[Path], Any]) -> Target:
    folder.mkdir(exist_ok=True)
    (folder / "a.json").write_text('{"a": 1, "b": [2, {"c": "x"}]}')
    return Target("json", folder, spoiled(folder, ("a.json",), folder.parent / "mark"), load)


def outcome(tmp_path: Path, load: Callable[[Path], Any]) -> list[str]:
    """Failures of one mutation, which replaces the file by `[]`."""

    def only_when_spoiled(folder: Path) -> Any:
        return load(folder) if (folder / "a.json").read_text() == "[]" else None

    (tmp_path / "work").mkdir()
    one = ("a.json", Mutation("/", "list", b"[]"))
    tally = tried(target(tmp_path / "good", only_when_spoiled), [one], tmp_path / "work")
    return [failure["failure"] for failure in tally.failures]


class Pickled:
    def __reduce__(self) -> Any:
        return (str, ("",))


def refuse(folder: Path) -> None:
    raise UserError(f"{folder} is bad")


def refuse_without_a_name(folder: Path) -> None:
    raise UserError("bad")


@pytest.mark.parametrize(
    ("load", "said"),
    [
        (lambda folder: {}["a"], "KeyError"),
        (refuse_without_a_name, "without naming the file"),
        (lambda folder: bytearray(300 << 20).find(1), "MiB of memory"),
        (lambda folder: bytearray(1 << 40), "MemoryError"),
        (lambda folder: pickle.loads(pickle.dumps(Pickled())), "pickle.find_class"),  # noqa: S301
        (lambda folder: os.system("true"), "os.system"),
        (lambda folder: subprocess.run(["true"], check=False), "subprocess.Popen"),
        (lambda folder: (folder.parent.parent / "outside").write_text("x"), "open .*outside"),
        (lambda folder: (folder.parent.parent / "outside").mkdir(), "os.mkdir"),
        (lambda folder: (folder.parent / "ran").mkdir(), "code of the input was run"),
    ],
    ids=[
        "crash",
        "nameless",
        "memory",
        "giant",
        "pickle",
        "shell",
        "process",
        "file",
        "folder",
        "mark",
    ],
)
def test_harness_sees_harm(tmp_path: Path, load: Callable[[Path], Any], said: str) -> None:
    (failure,) = outcome(tmp_path, load)
    assert said.split(" .*")[0] in failure


def test_harness_sees_what_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.campaign.in_time", lambda: in_time(0.05))
    assert "hang" in outcome(tmp_path, lambda folder: time.sleep(20))[0]


@pytest.mark.parametrize("load", [refuse, lambda folder: None])
def test_harness_lets_refusals_and_loads_pass(tmp_path: Path, load: Callable[[Path], Any]) -> None:
    assert outcome(tmp_path, load) == []


def test_every_key_is_removed_renamed_doubled_and_replaced(tmp_path: Path) -> None:
    content = b'{"a": 1, "b": [2, {"c": "x"}]}'
    found = list(json_mutations(content, tmp_path / "mark"))
    for place in ("/a", "/b", "/b/1/c"):
        changes = {str(one.what).split()[0] for one in found if one.place == place}
        assert {"removed", "renamed", "twice", "value"} <= changes
    assert {"/b/0", "/b/1", "/"} <= {one.place for one in found}
    contents = [one.bytes() for one in found]
    assert b'{"a": null, "b": [2, {"c": "x"}]}' in contents
    assert b'{"a": 1, "b": [2, {"c": "x"}], "a": 1}' in contents
    assert b'{"a": 1, "b": [2, {"c": NaN}]}' in contents
    assert content not in contents


def test_every_place_is_spoiled_before_any_twice(tmp_path: Path) -> None:
    found = chosen(target(tmp_path / "good", lambda folder: None), 9, random.Random(0))
    places = [mutation.place for _, mutation in found]
    assert {"/", "/a", "/b", "/b/0", "/b/1", "/b/1/c", "bytes", "file"} <= set(places)


def test_first_parse_is_the_formats_own(tmp_path: Path) -> None:
    cases = {
        "a.json": (b'{"a": NaN}', b"{"),
        "a.yaml": (b"a: 1", b"a: ["),
        "a.jsonl": (b"{}\n[]\n", b"{}\n{"),
        "a.safetensors": (b"\x02" + bytes(7) + b"{}", b"\x03" + bytes(7) + b"{}"),
    }
    for name, (good, bad) in cases.items():
        for content, wanted in ((good, True), (bad, False)):
            (tmp_path / name).write_bytes(content)
            assert past_first_parse(tmp_path / name) is wanted
    assert not past_first_parse(tmp_path / "none.json")
