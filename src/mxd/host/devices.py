"""Which devices there are."""

from __future__ import annotations

import torch

from mxd.errors import UserError


def check_device(name: str | torch.device) -> torch.device:
    """A device that is there.

    Args:
        name: such as "cpu", "cuda", "cuda:1". Apple's "mps" has no float64, which sums need.

    Raises:
        UserError: there is none of that name; the message lists those there are.
    """
    available = ["cpu", "meta"]
    if torch.cuda.is_available():
        available += ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if torch.xpu.is_available():
        available += ["xpu", *(f"xpu:{index}" for index in range(torch.xpu.device_count()))]
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or not {str(device), device.type if not device.index else ""} & {*available}:
        listed = ", ".join(item for item in available if item != "meta")
        raise UserError(f"got device {str(name)!r}, expected one of {listed}; choose one of these")
    return device
