"""The paper's probing tasks on data sets of the Hugging Face hub (experimental)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxd.data import TextOptions
from mxd.data.hub import open_folder, open_hub, read_dataset
from mxd.data.readers import Located, read_json_lines
from mxd.errors import UserError
from mxd.evaluation.probing.local import ENDINGS, encodable, label_of
from mxd.evaluation.probing.task import Example, Pool, Take

_LANGUAGES = ("C", "Python", "HTML", "Java", "PHP")
_TOPICS = ("World", "Sports", "Business", "Sci/Tech")
_PROFESSIONS = {
    "2": "attorney", "11": "journalist", "13": "nurse", "18": "photographer",
    "19": "physician", "21": "professor", "22": "psychologist", "26": "teacher",
}  # fmt: skip
"""The eight most frequent of the data set's 28; the paper does not name its eight."""
_RATINGS = {"1": "negative", "5": "positive"}
_PAIRS = {"en": "en-fr", "fr": "en-fr", "de": "de-en", "es": "en-es", "nl": "en-nl"}


@dataclass(frozen=True, kw_only=True)
class HubTask:
    """Where a task of the paper comes from and how its texts are read."""

    dataset: str
    """Id of the data set."""
    text: str = "text"
    """Column of the text."""
    label: str = "label"
    """Column of the label."""
    names: Mapping[str, str]
    """Class by the label column's value; rows of other values are passed over."""
    configurations: Mapping[str, str] | None = None
    """Europarl: for each class the configuration that holds its text."""
    take: Take = "first"
    """Which end of a text is read."""
    length: int = 127
    """Tokens read of each text, BOS not counted."""
    pool: Pool = "mean"
    """How a text's tokens are summarised."""


HUB_TASKS = {
    "ag_news": HubTask(
        dataset="fancyzhx/ag_news", names={str(n): name for n, name in enumerate(_TOPICS)}
    ),
    "github_code": HubTask(
        dataset="codeparrot/github-code", text="code", label="language",
        names={name: name for name in _LANGUAGES}, take="last", length=125,
    ),
    "amazon_sentiment": HubTask(
        dataset="canrager/amazon_reviews_mcauley_1and5", label="rating", names=_RATINGS
    ),
    "europarl": HubTask(
        dataset="Helsinki-NLP/europarl", text="translation",
        names={name: name for name in _PAIRS}, configurations=_PAIRS,
    ),
    "bias_in_bios": HubTask(
        dataset="LabHC/bias_in_bios", text="hard_text", label="profession",
        names=_PROFESSIONS, take="last", length=128, pool="last",
    ),
}  # fmt: skip
"""The tasks of the paper's section on sparse probing, by name."""


def read_hub_task(task: HubTask, data: Path | None, limit: int) -> list[Example]:
    """The first `limit` texts of a task, as many of each class, without a split.

    Args:
        task: which.
        data: a local copy: JSON lines or a data-set folder with the columns of the hub's data set
            (or `text` and `label`); None reads from the hub.
        limit: how many texts in all.

    Raises:
        UserError: the data cannot be had, or lacks texts of a class.
    """
    each = max(1, limit // len(task.names))
    found: dict[str, list[Example]] = {name: [] for name in task.names.values()}
    for records, only in _streams(task, data):
        wanted = set(task.names.values()) if only is None else {only}
        for where, record in records:
            text, name = _text_and_class(task, where, record, only)
            if name in wanted and len(found[name]) < each:
                found[name].append(Example(text, (name,), ""))
                if all(len(found[name]) == each for name in wanted):
                    break
    empty = [name for name, examples in found.items() if not examples]
    if empty:
        raise UserError(
            f"got no text of the class {empty[0]!r} in {data or task.dataset}, expected some of "
            f"{', '.join(found)}; give another copy of the data"
        )
    return [example for examples in found.values() for example in examples]


def _streams(task: HubTask, data: Path | None) -> Iterator[tuple[Iterator[Located], str | None]]:
    """Records, each with the class that is to be taken from them where that is settled."""
    if data is not None:
        yield _local(task, data), None
        return
    configurations: Mapping[str, str | None] = task.configurations or {"": None}
    for name, configuration in configurations.items():
        options = TextOptions(
            column=task.text, doc_column=task.label, dataset_name=configuration, shuffle_documents=0
        )
        try:
            dataset = open_hub(task.dataset, options)
        except UserError as error:
            raise UserError(f"{error}; or give a local copy of the data") from None
        yield read_dataset(dataset, task.dataset), name or None


def _local(task: HubTask, data: Path) -> Iterator[Located]:
    if data.name.lower().endswith(ENDINGS):
        return read_json_lines(data)
    if not data.is_dir():
        raise UserError(
            f"got {data} as the task's data, expected JSON lines ({' or '.join(ENDINGS)}) or the "
            "folder of a data set; give one of these"
        )
    options = TextOptions(column=task.text, doc_column=task.label, shuffle_documents=0)
    return read_dataset(open_folder(data, options), str(data))


def _text_and_class(
    task: HubTask, where: str, record: Any, only: str | None
) -> tuple[str, str | None]:
    if not isinstance(record, Mapping):
        raise UserError(f"got a {type(record).__name__} in {where}, expected an object; mend it")
    name: str | None
    text = record.get(task.text, record.get("text"))
    if isinstance(text, Mapping) and only is not None:
        text, name = text.get(only), only
    else:
        value = record.get(task.label, record.get("label"))
        value = int(value) if isinstance(value, float) and value.is_integer() else value
        label = label_of(where, value, task.label)
        name = label if label in task.names.values() else task.names.get(label)
    if not isinstance(text, str):
        raise UserError(
            f"got no text in column {task.text!r} of {where}, expected one in every row; give "
            "another copy of the data"
        )
    return encodable(text), name
