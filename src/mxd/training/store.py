"""Keep an evaluation with the run it belongs to, and write its figures into the model cards."""

import json
from typing import Any

from mxd._durable_files import replace_text
from mxd.layers.storage import write_description
from mxd.training.run import Run, student_folder


def store_evaluation(run: Run, document: dict[str, Any], *, name: str) -> None:
    """Write `eval/<name>.json`, and then each layer's figures into its folder.

    Args:
        run: the run; one that is only in memory gets the figures on its layers alone.
        document: what `Evaluation.to_dict` gave.
        name: name of the file.

    Raises:
        CannotWriteError: the disk is full, or the folder cannot be written to.
    """
    store_result(run, document, name=name)
    for figures in document["layers"]:
        layer = run.layers[figures["site"]][figures["name"]]
        layer.provenance.evaluation = {
            "text": document["text"],
            "tokens": document["tokens"],
            **figures,
        }
        if run.folder is not None:
            write_description(layer, student_folder(run.folder, figures["site"], figures["name"]))


def store_result(run: Run, document: dict[str, Any], *, name: str) -> None:
    """Write `eval/<name>.json`; nothing for a run that is only in memory.

    Args:
        run: the run.
        document: plain data without NaN. Its `kind` says what it holds (`probe`, `steering`, …)
            and its `command` which command made it: reports are put together from these files.
        name: name of the file.

    Raises:
        CannotWriteError: the disk is full, or the folder cannot be written to.
    """
    if run.folder is not None:
        text = json.dumps(document, indent=2, allow_nan=False) + "\n"
        replace_text(run.folder / "eval" / f"{name}.json", text)
