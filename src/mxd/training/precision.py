"""Which precision matrix products run in."""

from contextlib import AbstractContextManager, nullcontext

import torch


def bf16_is_native(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware, which is when autocast is faster."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, probe, bool)() for probe in probes)
    return False


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The context that training steps run in: bf16 autocast, or nothing.

    Args:
        precision: `float32`, `bf16`, or `auto` (bf16 where `bf16_is_native`).
        device: where the step runs.
    """
    if precision == "bf16" or (precision == "auto" and bf16_is_native(device)):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()
