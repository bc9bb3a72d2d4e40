import datasets
import huggingface_hub
import pytest
from tests.evaluation.probing._parts import write_rows

from mxd import UserError
from mxd.evaluation.probing import HUB_TASKS, load_task


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def _hub(monkeypatch, make):
    """Put local data sets where the hub's would be opened; returns what was asked for."""
    asked = []

    def load(name, configuration=None, *, split, streaming):
        asked.append((name, configuration, split))
        return datasets.Dataset.from_list(make(configuration))

    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked


def test_ag_news_is_evenly_drawn_named_and_split(monkeypatch):
    asked = _hub(
        monkeypatch, lambda _: [{"text": f"t{i}", "label": i % 4, "x": 0} for i in range(900)]
    )
    task = load_task("ag_news", limit=800)
    assert asked == [("fancyzhx/ag_news", None, "train")]
    assert (task.name, task.source, task.level) == ("ag_news", "fancyzhx/ag_news", "text")
    assert task.labels("train") == dict.fromkeys(["World", "Sports", "Business", "Sci/Tech"], 160)
    assert task.labels("test") == dict.fromkeys(["World", "Sports", "Business", "Sci/Tech"], 40)
    first = next(each for each in task.examples if each.labels == ("Sports",))
    assert first.text == "t1"


def test_europarl_takes_each_language_from_its_pair(monkeypatch):
    def pairs(configuration):
        one, other = configuration.split("-")
        return [{"translation": {one: f"{one}{i}", other: f"{other}{i}"}} for i in range(60)]

    asked = _hub(monkeypatch, pairs)
    task = load_task("europarl", limit=250)
    assert {configuration for _, configuration, _ in asked} == {"en-fr", "de-en", "en-es", "en-nl"}
    assert task.labels("train") == dict.fromkeys(["en", "fr", "de", "es", "nl"], 40)
    assert all(each.text.startswith(each.labels[0]) for each in task.examples)


def test_sentiment_takes_the_outer_ratings(monkeypatch):
    ratings = [1.0, 5.0]
    rows = [{"text": "t", "rating": ratings[i % 2]} for i in range(100)]
    _hub(monkeypatch, lambda _: rows)
    assert load_task("amazon_sentiment").labels("train") == {"negative": 40, "positive": 40}


def test_bios_reads_the_last_token_of_eight_professions(monkeypatch):
    rows = [{"hard_text": "t", "profession": i % 28} for i in range(28 * 40)]
    _hub(monkeypatch, lambda _: rows)
    task = load_task("bias_in_bios")
    assert (task.take, task.pool, task.length) == ("last", "last", 128)
    assert len(task.labels("train")) == 8
    assert task.labels("test")["nurse"] == 8


def test_code_comes_from_a_local_copy(tmp_path):
    languages = [*HUB_TASKS["github_code"].names, "Rust"]
    rows = [{"code": "x", "language": languages[i % 6]} for i in range(240)]
    task = load_task("github_code", data=write_rows(tmp_path / "c.jsonl", rows))
    assert (task.take, task.length, task.pool) == ("last", 125, "mean")
    assert task.labels("train") == dict.fromkeys(languages[:5], 32)
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    saved = load_task("github_code", data=tmp_path / "saved")
    assert saved.examples == task.examples


def test_a_hub_that_is_switched_off_or_a_wrong_copy_is_refused(monkeypatch, tmp_path):
    def load(*_args, **_kwargs):
        raise RuntimeError("Dataset scripts are no longer supported")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(UserError, match=r"codeparrot/github-code.*local copy"):
        load_task("github_code")
    rows = [{"code": "x", "language": "C"}] * 50
    with pytest.raises(UserError, match="no text of the class 'Python'"):
        load_task("github_code", data=write_rows(tmp_path / "c.jsonl", rows))
    with pytest.raises(UserError, match="no text in column 'code'"):
        load_task("github_code", data=write_rows(tmp_path / "d.jsonl", [{"language": "C"}]))
    with pytest.raises(UserError, match="expected JSON lines"):
        load_task("github_code", data=tmp_path / "e.csv")
