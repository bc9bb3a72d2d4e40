"""Activations φ by their names in transformers."""

from torch import nn
from transformers.activations import ACT2FN

from mxd.errors import UserError

_FUSED = {"gelu_new": "gelu_pytorch_tanh"}
"""Names whose module in transformers is composed of many operators, and the fused twin."""


def activation(name: str) -> nn.Module:
    """The activation that transformers knows as `name` (`gelu` is the erf form).

    Raises:
        UserError: no such activation, and the message lists the known ones; or a learned one.
    """
    if name not in ACT2FN:
        raise UserError(f"got activation {name!r}, expected one of {', '.join(sorted(ACT2FN))}")
    module: nn.Module = ACT2FN[_FUSED.get(name, name)]
    if module.state_dict():
        raise UserError(f"got activation {name!r}, expected one without parameters of its own")
    return module
