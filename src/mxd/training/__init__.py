"""Training: the recipe, and the trainer that feeds many layers from one pass of the model."""

from mxd.training.fit import Progress, fit, resolve_sites
from mxd.training.losses import LOSSES, loss_function, normalized_mse, reference
from mxd.training.recipe import (
    BufferRecipe,
    LayerRecipe,
    OptimizerRecipe,
    Recipe,
    StudentSpec,
    TextRecipe,
)
from mxd.training.recipes import RECIPES, changed, named_recipe
from mxd.training.run import Run, open_run, student_folder
from mxd.training.run_folder import check_free
from mxd.training.schedule import Schedule
from mxd.training.store import store_evaluation, store_result
from mxd.training.student import Student, Window, dead_units_loss
from mxd.training.text import evaluation_documents, first_documents, training_documents

__all__ = [
    "LOSSES",
    "RECIPES",
    "BufferRecipe",
    "LayerRecipe",
    "OptimizerRecipe",
    "Progress",
    "Recipe",
    "Run",
    "Schedule",
    "Student",
    "StudentSpec",
    "TextRecipe",
    "Window",
    "changed",
    "check_free",
    "dead_units_loss",
    "evaluation_documents",
    "first_documents",
    "fit",
    "loss_function",
    "named_recipe",
    "normalized_mse",
    "open_run",
    "reference",
    "resolve_sites",
    "store_evaluation",
    "store_result",
    "student_folder",
    "training_documents",
]
