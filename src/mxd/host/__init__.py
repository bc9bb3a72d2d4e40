"""The frozen model: find its MLPs, capture what goes in and out, graft layers in and out."""

from mxd.host._compatible import BaseModelMismatch
from mxd.host._site import MLPSite, site_fingerprint
from mxd.host.capture import capture, record
from mxd.host.compiled import compiled_blocks
from mxd.host.find import find_mlps, find_site
from mxd.host.graft import graft
from mxd.host.loading import check_device, load_model, load_tokenizer
from mxd.host.resume import Resume

__all__ = [
    "BaseModelMismatch",
    "MLPSite",
    "Resume",
    "capture",
    "check_device",
    "compiled_blocks",
    "find_mlps",
    "find_site",
    "graft",
    "load_model",
    "load_tokenizer",
    "record",
    "site_fingerprint",
]
