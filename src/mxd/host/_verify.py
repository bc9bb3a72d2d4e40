"""Recompute a candidate's output from its weights and compare with what the host computes.

This is what tells an MLP from attention of the same shapes, the gate of a GLU from its other
factor, and one activation from another: by what they do, whatever they are called.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from mxd.host._activation import (
    activation_callables,
    activation_function,
    distinct_activations,
    name_of,
)
from mxd.host._blocks import Candidate
from mxd.host._linear import Projection
from mxd.host._weights import is_quantised

logger = logging.getLogger(__name__)

_TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 1e-2}  # relative; a few roundings of each
_FLOAT32_TOLERANCE = 2e-5  # the two forms of GELU are 1e-4 apart
_QUANTISED_TOLERANCE = 5e-2  # LLM.int8 rounds what goes into a product too


@dataclass(frozen=True, eq=False)
class Observation:
    """An input and output that the host really has at a candidate."""

    x: Tensor
    y: Tensor
    adds_residual: bool


@dataclass(frozen=True, eq=False)
class Finding:
    """What a candidate is known to be, so far."""

    candidate: Candidate
    activation: str | None
    activation_name: str | None
    adds_residual: bool
    verified: bool | None


def observe(candidate: Candidate) -> Observation | None:
    """Run a candidate's module on random x; None where it does not map one tensor to another."""
    wanted = _required_arguments(candidate.module)
    if wanted not in (1, 2):
        return None
    x = _sample(candidate.encoder)
    try:
        y = candidate.module(x) if wanted == 1 else _without_residual(candidate, x)
    except Exception as error:  # attention, as a rule: it wants more than x
        logger.debug("%s is no MLP: it cannot be run on one tensor (%s)", candidate.name, error)
        return None
    if not isinstance(y, Tensor) or y.shape != (*x.shape[:-1], candidate.decoder.d_to):
        return None
    return Observation(x, y, adds_residual=wanted == 2)


def _required_arguments(module: nn.Module) -> int:
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(module.forward).parameters.values()
    return sum(p.default is p.empty and p.kind not in kinds for p in parameters)


def _without_residual(candidate: Candidate, x: Tensor) -> Tensor | None:
    """The output of forward(x, residual) less the residual; None if that is not what it does."""
    residual = x.new_ones(*x.shape[:-1], candidate.decoder.d_to)
    y = candidate.module(x, torch.zeros_like(residual))
    total = candidate.module(x, residual)
    if not isinstance(y, Tensor) or not isinstance(total, Tensor):
        return None
    return y if x.is_meta or _agree(y + residual, total) else None


def _sample(encoder: Projection) -> Float[Tensor, "1 4 d_in"]:
    """Random x for which the hidden units are neither tiny nor all saturated."""
    weight, generator = encoder.weight, torch.Generator().manual_seed(0)
    if weight.is_meta:  # of any size, as a configuration claims
        return weight.new_empty(1, 4, encoder.d_from)
    x = torch.randn(1, 4, encoder.d_from, generator=generator).to(weight.device, weight.dtype)
    spread = float(F.linear(x, weight).float().std())
    return x * (2.0 / spread) if spread > 0 else x


def _agree(expected: Tensor, actual: Tensor, quantised: bool = False) -> bool:
    tolerance = _TOLERANCE.get(actual.dtype, _FLOAT32_TOLERANCE)
    tolerance = _QUANTISED_TOLERANCE if quantised else tolerance
    error = (expected.float() - actual.float()).norm()
    return bool(error <= tolerance * actual.float().norm())


def guess(candidate: Candidate, configured: Sequence[str]) -> Finding:
    """What the names and modules say, with nothing run."""
    for child, function in activation_callables(candidate.module):
        name = name_of(function, configured)
        if name is not None:
            dotted = None if child is None else f"{candidate.name}.{child}"
            return Finding(candidate, name, dotted, adds_residual=False, verified=None)
    return Finding(candidate, None, None, adds_residual=False, verified=None)


def explain(candidate: Candidate, observation: Observation, configured: Sequence[str]) -> Finding:
    """Find the activation with which the weights give the observed output.

    Args:
        candidate: linear maps in the roles to try.
        observation: x (..., d_in) and y (..., d_out) of the host.
        configured: names of activations that the host's configuration mentions.

    Returns:
        A finding with `verified` True, False (no activation fits; activation None), or None
        (the model is on the meta device, or gives NaN or infinity: there is nothing to compare).
    """
    guessed = replace(guess(candidate, configured), adds_residual=observation.adds_residual)
    if observation.x.is_meta or not observation.y.isfinite().all():
        return guessed
    names = (guessed.activation, *configured, *distinct_activations())
    for name in dict.fromkeys(name for name in names if name is not None):
        recomputed = _recompute(candidate, observation.x, name)
        if _agree(recomputed, observation.y, is_quantised(candidate.encoder.module)):
            return replace(guessed, activation=name, verified=True)
    return replace(guessed, activation=None, verified=False)


def _recompute(candidate: Candidate, x: Tensor, activation: str) -> Tensor:
    encoder, up, decoder = candidate.encoder, candidate.up, candidate.decoder
    pre = F.linear(x, encoder.weight, encoder.bias)
    hidden = activation_function(activation)(pre.float()).to(x.dtype)
    if up is not None:
        hidden = hidden * F.linear(x, up.weight, up.bias)
    return F.linear(hidden, decoder.weight, decoder.bias)
