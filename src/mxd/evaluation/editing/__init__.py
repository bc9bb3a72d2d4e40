"""How selectively the model changes when units of a layer are edited."""

from mxd.evaluation.editing.choice import RANKINGS, SIZES
from mxd.evaluation.editing.results import EditEffect, EditingStudy, EditSet, LayerEditing
from mxd.evaluation.editing.study import editing_study
from mxd.evaluation.editing.text import StudyText, study_text

__all__ = [
    "RANKINGS",
    "SIZES",
    "EditEffect",
    "EditSet",
    "EditingStudy",
    "LayerEditing",
    "StudyText",
    "editing_study",
    "study_text",
]
