"""Sources that fail for a while, or for good; nobody waits here."""

import logging

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data._breaking import LOST, Source, Time, numbered

from mxd.data import Document, RetryOptions, TextOptions, open_documents
from mxd.data.damage import DamagedError
from mxd.data.documents import text_key
from mxd.data.retrying import is_passing, retried
from mxd.errors import UserError

PATIENT = RetryOptions(tries=5, first_seconds=1, longest_seconds=60, total_seconds=1000)


@pytest.mark.parametrize("stalls", [False, True])
@settings(max_examples=30, deadline=None)
@given(breaks=st.lists(st.integers(0, 20), max_size=4))
def test_documents_come_once_and_in_their_order_wherever_the_source_breaks(stalls, breaks):
    source, time = Source(*breaks), Time()
    found = list(retried(source, "s", PATIENT, stalls=stalls, clock=time.clock))
    assert found == numbered(20)
    assert source.opened == source.closed == len(breaks) + 1
    assert len(time.slept) == len(breaks)


def test_waits_double_up_to_the_longest_and_depend_on_the_seed():
    waits = []
    for seed in (1, 1, 2):
        time = Time()
        options = RetryOptions(
            tries=9, first_seconds=1, longest_seconds=20, total_seconds=999, seed=seed
        )
        list(retried(Source(*[3] * 8), "s", options, clock=time.clock))
        waits.append(time.slept)
        for wait, longest in zip(time.slept, (1, 2, 4, 8, 16, 20, 20, 20), strict=True):
            assert longest / 2 <= wait <= longest
    assert waits[0] == waits[1] != waits[2]


def test_source_that_stays_away_ends_clearly(caplog):
    time = Time()
    with pytest.raises(UserError) as caught, caplog.at_level(logging.WARNING):
        list(retried(Source(*[2] * 9), "owner/data", PATIENT, clock=time.clock))
    said = str(caught.value)
    assert "owner/data in 5 tries over" in said
    assert "ConnectionResetError: [Errno 104] Connection reset by peer" in said
    assert "--resume" in said
    assert "local copy" in said
    assert caught.value.__cause__ is LOST
    assert f"over {sum(time.slept):.0f} s" in said
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 4
    for number, line in enumerate(lines, start=2):
        assert "owner/data failed (ConnectionResetError: [Errno 104] Connection" in line
        assert f"try {number} of 5 follows in" in line
        assert "\n" not in line


def test_time_without_a_document_is_bounded():
    time = Time()
    options = RetryOptions(tries=1000, first_seconds=10, longest_seconds=10, total_seconds=65)
    with pytest.raises(UserError, match="over 65 s"):
        list(retried(Source(*[0] * 999), "s", options, clock=time.clock))
    assert sum(time.slept) == pytest.approx(65)


def test_a_new_document_makes_the_count_begin_anew():
    time = Time()
    breaks = [5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7]  # never five in a row
    assert list(retried(Source(*breaks), "s", PATIENT, clock=time.clock)) == numbered(20)


def test_time_that_the_consumer_takes_is_not_the_source_s():
    time = Time()
    found = []
    options = RetryOptions(tries=3, first_seconds=1, total_seconds=10)
    for document in retried(Source(4, 4, 8), "s", options, clock=time.clock):
        time.now += 100
        found.append(document)
    assert found == numbered(20)


@pytest.mark.parametrize(
    "second",
    [
        [*numbered(20)[1:], *numbered(1)],
        numbered(4),
        [],
        [*numbered(4), Document("other", "text 4"), *numbered(20)[5:]],
        [*numbered(4), Document(text_key("text 4"), "another text"), *numbered(20)[5:]],
    ],
    ids=["moved", "shorter", "empty", "other key", "other text"],
)
def test_source_that_changed_in_the_meantime_is_refused(second):
    passes = [Source(5)(), iter(second)]
    with pytest.raises(UserError, match=r"other documents from s .* the 5 that it gave before"):
        list(retried(lambda: passes.pop(0), "s", PATIENT, clock=Time().clock))


class HTTPError(Exception):
    """Of an HTTP library that derives from nothing in particular."""

    __module__ = "httpx"

    def __init__(self, status: int | None) -> None:
        self.response = None if status is None else type("R", (), {"status_code": status})


def caused(error: UserError, cause: BaseException) -> UserError:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (ConnectionResetError(), True),
        (TimeoutError("read timed out"), True),
        (OSError(5, "Input/output error"), True),
        (HTTPError(None), True),
        (HTTPError(503), True),
        (HTTPError(429), True),
        (HTTPError(404), False),
        (HTTPError(401), False),
        (caused(UserError("reading"), ConnectionResetError()), True),
        (caused(UserError("reading"), caused(RuntimeError("of a library"), LOST)), True),
        (caused(UserError("reading"), ValueError("cast")), False),
        (caused(DamagedError("gzip"), OSError("CRC check failed")), False),
        (caused(UserError("reading"), caused(DamagedError("x"), LOST)), False),
        (UserError("wrong column"), False),
        (FileNotFoundError(2, "gone"), False),
        (PermissionError(13, "no"), False),
        (OSError(28, "No space left on device"), False),
        (ValueError("bug"), False),
        (RuntimeError("unknown"), False),
    ],
    ids=repr,
)
def test_what_may_pass_is_told_from_what_will_not(error, passes):
    assert is_passing(error) is passes
    source, time = Source(3, error=error), Time()
    if passes:
        assert list(retried(source, "s", PATIENT, clock=time.clock)) == numbered(20)
    else:
        with pytest.raises(type(error)) as caught:
            list(retried(source, "s", PATIENT, clock=time.clock))
        assert caught.value is error
        assert source.opened == 1
        assert time.slept == []


@pytest.fixture
def hub(monkeypatch):
    """A data set of the hub whose connection is lost after three records, twice."""
    import huggingface_hub

    opened = []

    def records():
        opened.append(1)
        for i in range(9):
            if i == 3 and len(opened) < 3:
                raise ConnectionError("Server Disconnected")
            yield {"text": f"text {i}"}

    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: None)
    streamed = datasets.IterableDataset.from_generator(records)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: streamed)
    return opened


def test_data_set_of_the_hub_is_read_on_after_its_connection_was_lost(hub):
    soon = RetryOptions(first_seconds=1e-3, longest_seconds=1e-3)
    source = open_documents("owner/data", TextOptions(shuffle_documents=0), retry=soon)
    assert list(source) == numbered(9)
    assert len(hub) == 3
    hub.clear()
    with pytest.raises(UserError, match=r"owner/data in 2 tries .*ConnectionError: Server Disconn"):
        list(open_documents("owner/data", retry=RetryOptions(tries=2, first_seconds=1e-3)))


def test_file_of_a_disk_that_fails_once_is_read_on(tmp_path, write_jsonl, monkeypatch):
    from mxd.data import readers

    path = write_jsonl(tmp_path / "a.jsonl", *({"text": d.text} for d in numbered(9)))
    parse, failures = readers._parse, [5]

    def failing(line, *place):
        if failures and b"text 4" in line:
            raise OSError(failures.pop(), "Input/output error")
        return parse(line, *place)

    monkeypatch.setattr(readers, "_parse", failing)
    soon = RetryOptions(first_seconds=1e-3)
    assert list(open_documents(path, TextOptions(shuffle_documents=0), retry=soon)) == numbered(9)
    assert not failures
    failures[:] = [5] * 9
    with pytest.raises(UserError, match=r"a\.jsonl in 4 tries .*Input/output error"):
        list(open_documents(path, retry=soon))


@pytest.mark.parametrize("wrong", [{"tries": 0}, {"stall_seconds": 0}, {"total_seconds": -1.0}])
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(UserError, match=f"got {next(iter(wrong))}="):
        RetryOptions(**wrong)
