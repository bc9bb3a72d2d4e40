"""Training: the recipe, and the trainer that feeds many layers from one pass of the model."""

from mxd.training.ablations import Ablations, read_ablations
from mxd.training.beginning import is_done
from mxd.training.checkpoints import CheckpointOptions, saved_steps
from mxd.training.dead_units import dead_units_loss
from mxd.training.fit import fit, resolve_sites
from mxd.training.geometry import smallest_singular_value
from mxd.training.harvest import HarvestRecipe, asked_manifest, harvest, harvested_sites
from mxd.training.interruption import Interrupted, Stopped
from mxd.training.layer_recipe import STARTS, LayerOverrides, LayerRecipe
from mxd.training.losses import LOSSES, loss_function, normalized_mse, reference
from mxd.training.presets import (
    PAPER_ARCHITECTURES,
    PAPER_KS,
    PRESETS,
    Preset,
    PublishedPoint,
    scaled,
)
from mxd.training.progress import Progress
from mxd.training.recipe import BufferRecipe, OptimizerRecipe, Recipe, StudentSpec, TextRecipe
from mxd.training.recipes import RECIPES, changed, named_recipe
from mxd.training.run import Run, open_run, student_folder
from mxd.training.run_folder import begun_run, check_free
from mxd.training.schedule import Schedule
from mxd.training.store import store_evaluation, store_result
from mxd.training.stream import cached_text, finished_manifest
from mxd.training.student import Student, Window
from mxd.training.team import check_layout
from mxd.training.text import (
    evaluation_documents,
    first_documents,
    held_out_documents,
    training_documents,
)

__all__ = [
    "LOSSES",
    "PAPER_ARCHITECTURES",
    "PAPER_KS",
    "PRESETS",
    "RECIPES",
    "STARTS",
    "Ablations",
    "BufferRecipe",
    "CheckpointOptions",
    "HarvestRecipe",
    "Interrupted",
    "LayerOverrides",
    "LayerRecipe",
    "OptimizerRecipe",
    "Preset",
    "Progress",
    "PublishedPoint",
    "Recipe",
    "Run",
    "Schedule",
    "Stopped",
    "Student",
    "StudentSpec",
    "TextRecipe",
    "Window",
    "asked_manifest",
    "begun_run",
    "cached_text",
    "changed",
    "check_free",
    "check_layout",
    "dead_units_loss",
    "evaluation_documents",
    "finished_manifest",
    "first_documents",
    "fit",
    "harvest",
    "harvested_sites",
    "held_out_documents",
    "is_done",
    "loss_function",
    "named_recipe",
    "normalized_mse",
    "open_run",
    "read_ablations",
    "reference",
    "resolve_sites",
    "saved_steps",
    "scaled",
    "smallest_singular_value",
    "store_evaluation",
    "store_result",
    "student_folder",
    "training_documents",
]
