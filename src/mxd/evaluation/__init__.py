"""Evaluation: what the model loses, how layers use their units, what the units fire on."""

from mxd.evaluation._signatures import idle_gate_limit
from mxd.evaluation.doctor import Finding, diagnose
from mxd.evaluation.documents import DocumentSums, Estimate, paired_difference
from mxd.evaluation.editing import EditingStudy, StudyText, editing_study, study_text
from mxd.evaluation.evaluate import evaluate
from mxd.evaluation.examples import (
    Example,
    UnitExamples,
    selectivity,
    show_unit,
    units_worth_seeing,
)
from mxd.evaluation.figures import Evaluation, LayerFigures, SiteFigures, TogetherFigures
from mxd.evaluation.firing import Firing, find_firing, find_firings
from mxd.evaluation.geometry import Geometry, geometry
from mxd.evaluation.probing import Probe, load_task, probe
from mxd.evaluation.specialisation import Specialisation, specialisation
from mxd.evaluation.steering import Steered, SteeredText, steer
from mxd.evaluation.units import UnitFigures, measure_units, unit_documents

__all__ = [
    "DocumentSums",
    "EditingStudy",
    "Estimate",
    "Evaluation",
    "Example",
    "Finding",
    "Firing",
    "Geometry",
    "LayerFigures",
    "Probe",
    "SiteFigures",
    "Specialisation",
    "Steered",
    "SteeredText",
    "StudyText",
    "TogetherFigures",
    "UnitExamples",
    "UnitFigures",
    "diagnose",
    "editing_study",
    "evaluate",
    "find_firing",
    "find_firings",
    "geometry",
    "idle_gate_limit",
    "load_task",
    "measure_units",
    "paired_difference",
    "probe",
    "selectivity",
    "show_unit",
    "specialisation",
    "steer",
    "study_text",
    "unit_documents",
    "units_worth_seeing",
]
