"""A fingerprint of token ids that can be kept, and gone on from after an interruption."""

import hashlib

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

BLOCK_IDS = 1024


class TokenDigest:
    """A chain of SHA-256 over blocks of 1024 token ids, as little-endian 64-bit integers.

    h₀ is empty, hₙ₊₁ = SHA-256(hₙ, block n); the fingerprint is SHA-256(hₙ, ids since the last
    block). It does not depend on the pieces that the ids come in. A plain SHA-256 would not do:
    its state in the middle of a text cannot be kept.

    Args:
        chain: hₙ as hexadecimal digits, to go on from.
        rest: the ids since the last block, to go on from.
    """

    def __init__(self, chain: str = "", rest: tuple[int, ...] = ()) -> None:
        self._chain = bytes.fromhex(chain)
        self._rest = np.asarray(rest, dtype="<i8")

    @property
    def state(self) -> tuple[str, tuple[int, ...]]:
        """What it takes to go on: the arguments of the constructor."""
        return self._chain.hex(), tuple(self._rest.tolist())

    def copy(self) -> "TokenDigest":
        """Another one in the same state."""
        return TokenDigest(*self.state)

    def update(self, ids: Int64[Tensor, " ids"]) -> None:
        """Go on with these ids."""
        held = np.concatenate([self._rest, ids.to(torch.int64).numpy().astype("<i8")])
        whole = len(held) - len(held) % BLOCK_IDS
        for start in range(0, whole, BLOCK_IDS):
            block = held[start : start + BLOCK_IDS].tobytes()
            self._chain = hashlib.sha256(self._chain + block).digest()
        self._rest = held[whole:]

    def hexdigest(self) -> str:
        """The fingerprint of all ids so far, 64 hexadecimal digits."""
        return hashlib.sha256(self._chain + self._rest.tobytes()).hexdigest()
