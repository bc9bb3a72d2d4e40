"""Evaluation: what the model loses, how layers use their units, what the units fire on."""

from mxd.evaluation.documents import DocumentSums, Estimate, paired_difference
from mxd.evaluation.evaluate import evaluate
from mxd.evaluation.examples import (
    Example,
    UnitExamples,
    selectivity,
    show_unit,
    units_worth_seeing,
)
from mxd.evaluation.figures import Evaluation, LayerFigures, SiteFigures, TogetherFigures
from mxd.evaluation.firing import Firing, find_firing
from mxd.evaluation.steering import Steered, SteeredText, steer

__all__ = [
    "DocumentSums",
    "Estimate",
    "Evaluation",
    "Example",
    "Firing",
    "LayerFigures",
    "SiteFigures",
    "Steered",
    "SteeredText",
    "TogetherFigures",
    "UnitExamples",
    "evaluate",
    "find_firing",
    "paired_difference",
    "selectivity",
    "show_unit",
    "steer",
    "units_worth_seeing",
]
