"""What is stored when a run has come to its end, or to a stop."""

from pathlib import Path
from typing import Any

from mxd.data import common_fingerprint
from mxd.layers import Layer
from mxd.training.checkpoints import remove_left, remove_unfinished
from mxd.training.loop import Workers
from mxd.training.run import Run, student_folder
from mxd.training.run_folder import write_run
from mxd.training.statistics import store_means
from mxd.training.summary import TextRead, summarise


def finish(workers: Workers, record: dict[str, Any], folder: Path | None) -> Run:
    """Store the students and the run's record, as far as they were trained.

    Args:
        workers: who took part; all processes call this alike.
        record: the content of run.json, to which the text that was read is added.
        folder: the run's folder; None keeps the layers in memory.

    Raises:
        CannotWriteError: the disk is full.
    """
    recipe, team, own = workers.recipe, workers.team, workers.roster.own
    widths = {name: d_in for name, (d_in, _) in workers.widths.items()}
    store_means(own, workers.stream, widths, recipe.buffer, team)
    read = _text_read(workers)
    layers: dict[str, dict[str, Layer]] = {}
    for student in own:
        student.layer.eval().provenance.training = summarise(student, recipe, read)
        layer = team.whole(student.layer, student.companions)
        if layer is None:  # another process stores it
            continue
        if team.size == 1:
            layers.setdefault(student.site, {})[student.name] = layer
        if folder is not None:
            layer.save_pretrained(student_folder(folder, student.site, student.name))
    record["data"] = {
        "fingerprint": read.fingerprint,
        "epochs": read.epoch,
        "tokens_trained": max(team.listed([student.tokens for student in own])),
    }
    record.setdefault("complete", True)
    team.all(True)  # all layers are there
    if folder is not None and team.speaks:
        write_run(folder, record)
        if record["complete"]:
            remove_left(folder)
            remove_unfinished(folder)
    return Run(recipe, layers, record, folder)


def _text_read(workers: Workers) -> TextRead:
    stream = workers.stream
    found = workers.team.listed([[stream.epoch, list(stream.fingerprints.items())]])
    fingerprints = {int(shard): text for _, pairs in found for shard, text in pairs}
    return TextRead(max(epoch for epoch, _ in found), common_fingerprint(fingerprints))
