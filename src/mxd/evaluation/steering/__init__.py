"""Steering: texts with units turned up, and the study of what each unit writes."""

from mxd.evaluation.steering._writer import unsteered_texts
from mxd.evaluation.steering.layers import Steered, SteeredRows, random_rows
from mxd.evaluation.steering.results import (
    LayerSteering,
    Scores,
    SteeredExample,
    SteeringStudy,
    Swept,
    UnitScores,
)
from mxd.evaluation.steering.sampling import FrequencyPenalty, Sampling, sample, uniform_draws
from mxd.evaluation.steering.steer import SteeredText, steer
from mxd.evaluation.steering.strength import Strength
from mxd.evaluation.steering.study import StudyOptions, steering_study
from mxd.evaluation.steering.units import ChosenUnits, choose_units, largest_coefficients

__all__ = [
    "ChosenUnits",
    "FrequencyPenalty",
    "LayerSteering",
    "Sampling",
    "Scores",
    "Steered",
    "SteeredExample",
    "SteeredRows",
    "SteeredText",
    "SteeringStudy",
    "Strength",
    "StudyOptions",
    "Swept",
    "UnitScores",
    "choose_units",
    "largest_coefficients",
    "random_rows",
    "sample",
    "steer",
    "steering_study",
    "uniform_draws",
    "unsteered_texts",
]
