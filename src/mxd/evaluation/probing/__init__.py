"""Sparse probing: how well single units, and small groups of them, tell classes apart."""

from mxd.evaluation.probing.hub import HUB_TASKS
from mxd.evaluation.probing.load import load_task
from mxd.evaluation.probing.results import ClassFigures, Difference, Probe, ProbedLayer
from mxd.evaluation.probing.run import probe
from mxd.evaluation.probing.task import Example, Task

__all__ = [
    "HUB_TASKS",
    "ClassFigures",
    "Difference",
    "Example",
    "Probe",
    "ProbedLayer",
    "Task",
    "load_task",
    "probe",
]
