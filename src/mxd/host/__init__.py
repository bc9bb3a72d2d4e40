"""The frozen model: find its MLPs, capture what goes in and out, graft layers in and out."""

from mxd.host._calls import input_device
from mxd.host._compatible import BaseModelMismatch
from mxd.host._fingerprint import ModelFingerprint, model_fingerprint
from mxd.host._site import MLPSite, site_fingerprint
from mxd.host.capture import capture, record
from mxd.host.compiled import compiled_blocks
from mxd.host.devices import check_device
from mxd.host.find import find_mlps, find_site
from mxd.host.graft import graft
from mxd.host.loading import load_model, load_tokenizer
from mxd.host.placing import (
    DEVICE_MAPS,
    QUANTISED,
    has_several_processes,
    is_spread,
    placement_of,
    read_device_map,
)
from mxd.host.resume import Resume

__all__ = [
    "DEVICE_MAPS",
    "QUANTISED",
    "BaseModelMismatch",
    "MLPSite",
    "ModelFingerprint",
    "Resume",
    "capture",
    "check_device",
    "compiled_blocks",
    "find_mlps",
    "find_site",
    "graft",
    "has_several_processes",
    "input_device",
    "is_spread",
    "load_model",
    "load_tokenizer",
    "model_fingerprint",
    "placement_of",
    "read_device_map",
    "record",
    "site_fingerprint",
]
