"""The bundled language models, and the main job shown end to end on one of them."""

from mxd.demo.models import BUNDLED, bundled_model, resolve_model
from mxd.demo.run import DemoResult, demo_recipe, run_demo

__all__ = ["BUNDLED", "DemoResult", "bundled_model", "demo_recipe", "resolve_model", "run_demo"]
