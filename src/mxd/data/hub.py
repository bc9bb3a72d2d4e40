"""Hugging Face data sets: on the hub, or in a local folder; streamed, and never their code."""

import inspect
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mxd._outside_files import read_plain
from mxd.data.readers import Located
from mxd.data.records import wanted_columns
from mxd.data.text_options import TextOptions
from mxd.errors import UserError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*(/[A-Za-z0-9][\w.\-]*)?")
_TIMEOUT_SECONDS = 10
_MOST_CARD_BYTES = 8 << 20
_OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")


def is_hub_id(source: str) -> bool:
    """Whether a string could name a data set of the hub."""
    return _HUB_ID.fullmatch(source) is not None


def is_dataset_folder(folder: Path, options: TextOptions) -> bool:
    """Whether a folder is a data set, rather than a folder of text files.

    It is one when `save_to_disk` wrote it, when a card describes its configurations, or when the
    user names a configuration.
    """
    described = _has_data_card(folder / "README.md") or options.dataset_name is not None
    return described or _is_saved(folder)


def open_hub(dataset_id: str, options: TextOptions) -> Any:
    """Open a data set of the hub for streaming; offline, the copy in the local cache.

    Raises:
        UserError: The hub cannot be reached, or has no such data set, configuration or split.
    """
    import datasets

    offline = _is_offline()
    if not offline:
        _check_reachable(dataset_id)
    elif not datasets.config.HF_HUB_OFFLINE:  # switched off too late for the library to notice
        raise _switched_off(dataset_id)
    try:
        dataset = datasets.load_dataset(
            dataset_id, options.dataset_name, split=options.split, streaming=not offline
        )
    except Exception as error:  # each builder of data sets has exceptions of its own
        if offline:
            raise _switched_off(dataset_id) from error
        raise _cannot_open(dataset_id, options, error) from error
    return _narrow(dataset, options, dataset_id)


def open_folder(folder: Path, options: TextOptions) -> Any:
    """Open a local data-set folder.

    Raises:
        UserError: The folder is damaged or lacks the configuration or split.
    """
    import datasets

    try:
        if _is_saved(folder):
            dataset = datasets.load_from_disk(str(folder))
        else:
            dataset = datasets.load_dataset(
                str(folder), options.dataset_name, split=options.split, streaming=True
            )
    except Exception as error:  # each builder of data sets has exceptions of its own
        raise _cannot_open(str(folder), options, error) from error
    if isinstance(dataset, datasets.DatasetDict):
        if options.split not in dataset:
            names = ", ".join(repr(name) for name in dataset)
            raise UserError(
                f"got split {options.split!r} for {folder}, expected one of {names}; "
                "name one of these splits"
            )
        dataset = dataset[options.split]
    return _narrow(dataset, options, str(folder))


def is_streamed(dataset: Any) -> bool:
    """Whether an opened data set is fetched while it is read."""
    import datasets

    return isinstance(dataset, datasets.IterableDataset)


def read_dataset(dataset: Any, name: str) -> Iterator[Located]:
    """The records of an opened data set.

    Raises:
        UserError: Reading failed, for example because the connection was lost.
    """
    try:
        for number, record in enumerate(dataset, start=1):
            yield f"{name}, record {number}", record
    except UserError:
        raise
    except Exception as error:  # from the network, from gzip, Arrow, a cast: no common base
        raise UserError(
            f"got an error while reading the data set {name}, expected its next record; "
            f"try again or use a local copy ({_first_line(error)})"
        ) from error


def _narrow(dataset: Any, options: TextOptions, name: str) -> Any:
    """Keep the wanted columns, and shuffle the shards of a streamed data set."""
    import datasets

    if dataset.column_names:  # a streamed data set may not know its columns
        dataset = dataset.select_columns(wanted_columns(dataset.column_names, options, name))
    if options.shuffle_documents and isinstance(dataset, datasets.IterableDataset):
        # Records are left to the buffer that all sources share. Reading many shards at a time,
        # which newer versions do, would hold threads and wait for them at the end.
        one_shard = "max_buffer_input_shards" in inspect.signature(dataset.shuffle).parameters
        extra = {"max_buffer_input_shards": 1} if one_shard else {}
        dataset = dataset.shuffle(seed=options.seed, buffer_size=1, **extra)
    return dataset


def _check_reachable(dataset_id: str) -> None:
    # load_dataset would retry for half a minute before it gave up.
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        HfApi().dataset_info(dataset_id, timeout=_TIMEOUT_SECONDS)
    except GatedRepoError as error:
        raise UserError(
            f"got {dataset_id!r}, a data set that asks for agreement, expected one that you may "
            "read; accept its terms on the hub and log in with `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"got {dataset_id!r}, expected an existing file, folder, glob or data set of the "
            "hub; check the spelling, or log in if it is private"
        ) from error
    except Exception as error:  # the HTTP library below has changed, and with it the exceptions
        raise UserError(
            f"got {dataset_id!r}, which is no existing path, and the hub cannot be reached to "
            f"look for a data set of that name; give a local path or mend the connection "
            f"({_first_line(error)})"
        ) from error


def _is_offline() -> bool:
    from huggingface_hub import constants

    switches = (os.environ.get(name, "").upper() for name in _OFFLINE_VARIABLES)
    return bool(constants.HF_HUB_OFFLINE) or any(v in ("1", "TRUE", "YES", "ON") for v in switches)


def _is_saved(folder: Path) -> bool:
    if (folder / "dataset_dict.json").is_file():
        return True
    return (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()


def _has_data_card(card: Path) -> bool:
    try:
        text = read_plain(card, _MOST_CARD_BYTES).decode("utf-8", "replace")
    except UserError:
        return False
    if not text.startswith("---"):
        return False
    header = text.split("---", 2)[1]
    return re.search(r"^(configs|dataset_info):", header, re.MULTILINE) is not None


def _switched_off(dataset_id: str) -> UserError:
    return UserError(
        f"got {dataset_id!r}, which is no existing path, while the hub is switched off, expected "
        "a local path or a data set, with its configuration and split, in the local cache; give a "
        f"path, or unset {' and '.join(_OFFLINE_VARIABLES)}"
    )


def _cannot_open(name: str, options: TextOptions, error: Exception) -> UserError:
    return UserError(
        f"got the data set {name!r} with configuration {options.dataset_name!r} and split "
        f"{options.split!r}, expected one that can be opened; mend this: {_first_line(error)}"
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
