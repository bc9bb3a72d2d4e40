"""What a training will need and how to lay it out, told before anything is loaded."""

from mxd.planning.calibration import calibrate, measure_ceilings
from mxd.planning.devices import DEVICES, H100, H200, KINDS, Device, as_ceilings, device_of
from mxd.planning.document import notes, per_token, plan_document
from mxd.planning.layouts import Division, Share, Traffic, divisions
from mxd.planning.ledger import Unmasked
from mxd.planning.memory import Item, Peak, memory_items, peak
from mxd.planning.model import ModelShape, SiteShape, describe_model
from mxd.planning.option import Option
from mxd.planning.plan import Plan, make_plan
from mxd.planning.rates import StepTime, step_time
from mxd.planning.reasons import gigabytes
from mxd.planning.shape import Shape, dense_parameters, parameters, unit_parameters
from mxd.planning.students import StudentShape, plan_students, step_bytes
from mxd.planning.training import Training
from mxd.planning.work import Ceilings, Part, floor_seconds, floors_by_group, step_parts

__all__ = [
    "DEVICES",
    "H100",
    "H200",
    "KINDS",
    "Ceilings",
    "Device",
    "Division",
    "Item",
    "ModelShape",
    "Option",
    "Part",
    "Peak",
    "Plan",
    "Shape",
    "Share",
    "SiteShape",
    "StepTime",
    "StudentShape",
    "Traffic",
    "Training",
    "Unmasked",
    "as_ceilings",
    "calibrate",
    "dense_parameters",
    "describe_model",
    "device_of",
    "divisions",
    "floor_seconds",
    "floors_by_group",
    "gigabytes",
    "make_plan",
    "measure_ceilings",
    "memory_items",
    "notes",
    "parameters",
    "peak",
    "per_token",
    "plan_document",
    "plan_students",
    "step_bytes",
    "step_parts",
    "step_time",
    "unit_parameters",
]
