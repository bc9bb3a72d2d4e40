"""Checkpoints of a run: written as a whole or not at all, checked before they are used."""

from mxd.training.checkpoints.changes import check_changes, check_names, differences
from mxd.training.checkpoints.folder import (
    Checkpoint,
    checkpoint_folder,
    newest_good,
    put_aside_after,
    remove_left,
    remove_unfinished,
    saved_steps,
    unchecked,
)
from mxd.training.checkpoints.options import CheckpointOptions
from mxd.training.checkpoints.random_state import random_state, restore_random_state
from mxd.training.checkpoints.writer import CheckpointWriter, Part

__all__ = [
    "Checkpoint",
    "CheckpointOptions",
    "CheckpointWriter",
    "Part",
    "check_changes",
    "check_names",
    "checkpoint_folder",
    "differences",
    "newest_good",
    "put_aside_after",
    "random_state",
    "remove_left",
    "remove_unfinished",
    "restore_random_state",
    "saved_steps",
    "unchecked",
]
