"""Tell a whole model from others, in a second or so for each ten gigabytes of weights."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mxd.host._weights import full_tensor

_SAMPLED_BYTES = 1 << 18
_WORD_BYTES = 8


class ModelFingerprint(NamedTuple):
    """What tells a model from others."""

    weights: str
    """Thirty-two hexadecimal digits over names, types, shapes and values."""
    dtypes: str
    """The types of its tensors by their names, such as `bfloat16, uint8`."""


def model_fingerprint(model: nn.Module) -> ModelFingerprint:
    """Tell a model from others by all parameters and buffers that are saved with it.

    Unlike `site_fingerprint` it sees the type of the numbers. Of each tensor counts the sum of all
    of its bits, as 64-bit integers modulo 2⁶⁴, which any one changed value changes, and some 32,768
    evenly spread words of it, which tell one order from another; nothing else leaves an
    accelerator. Packed weights count as what they unpack to. What is offloaded is fetched, a module
    at a time; what lies in parts on several processes is put together, which all of them have to
    call alike. What is on the meta device alone is left out.

    Args:
        model: any module.
    """
    digest = hashlib.blake2b(digest_size=16)
    dtypes: set[str] = set()
    for path, module in model.named_modules():
        for name, held in (*module._parameters.items(), *module._buffers.items()):
            if held is None or name in module._non_persistent_buffers_set:
                continue
            tensor = full_tensor(module, name)
            if tensor is None or tensor.is_meta or type(tensor) is not Tensor:
                continue
            dtype = str(held.dtype).removeprefix("torch.")
            dtypes.add(dtype)
            digest.update(f"{path}.{name};{dtype};{tuple(tensor.shape)};".encode())
            digest.update(_digest(tensor))
    return ModelFingerprint(digest.hexdigest(), ", ".join(sorted(dtypes)))


def _digest(tensor: Tensor) -> bytes:
    """The sum of a tensor's bits, and a sample of them."""
    raw = tensor.contiguous().reshape(-1).view(torch.uint8)
    count = len(raw) // _WORD_BYTES * _WORD_BYTES
    words, rest = raw[:count], raw[count:]
    if words.storage_offset() % _WORD_BYTES:  # words cannot begin within a word of the storage
        words = words.clone()
    words = words.view(torch.int64)
    step = max(1, count // _SAMPLED_BYTES)
    parts = (words.sum().reshape(1), words[::step].contiguous(), rest)
    return b"".join(part.cpu().numpy().tobytes() for part in parts)
