"""Keep an evaluation with the run it belongs to, and write its figures into the model cards."""

import json
from typing import Any

from mxd.layers.storage import write_description
from mxd.training.run import Run, student_folder


def store_evaluation(run: Run, document: dict[str, Any], *, name: str) -> None:
    """Write `eval/<name>.json`, and each layer's figures into its folder.

    Args:
        run: the run; one that is only in memory gets the figures on its layers alone.
        document: what `Evaluation.to_dict` gave.
        name: name of the file.
    """
    for figures in document["layers"]:
        layer = run.layers[figures["site"]][figures["name"]]
        layer.provenance.evaluation = {
            "text": document["text"],
            "tokens": document["tokens"],
            **figures,
        }
        if run.folder is not None:
            write_description(layer, student_folder(run.folder, figures["site"], figures["name"]))
    if run.folder is not None:
        (run.folder / "eval").mkdir(exist_ok=True)
        (run.folder / "eval" / f"{name}.json").write_text(
            json.dumps(document, indent=2) + "\n", encoding="utf-8"
        )
