"""The random states of the libraries that a process draws from, as plain data."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's own generators.

    mxd draws from generators of its own, whose states belong to students and streams. These are
    for whatever else a process does.
    """
    kind, keys, place, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [str(kind), np.asarray(keys).tolist(), int(place), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
        "cuda": [state.numpy().tobytes().hex() for state in _cuda_states()],
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Put back what `random_state` gave; devices that are not there are left out."""
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    kind, words, place, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.asarray(words, dtype=np.uint32), place, has_gauss, cached))
    torch.set_rng_state(_bytes(state["torch"]))
    for number, held in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(_bytes(held), number)


def _cuda_states() -> list[torch.Tensor]:
    return torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []


def _bytes(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
