"""A site: the boundary (x, y) of one MLP in the host, and the weights behind it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from mxd.errors import UserError
from mxd.host._linear import Projection
from mxd.host._weights import full_tensor, hook_device
from mxd.layers._dense_weights import DenseWeights

Boundary = Literal["module", "split", "residual"]


@dataclass(frozen=True, eq=False)
class Parts:
    """The linear maps of an MLP, by the roles they turned out to have."""

    encoder: Projection
    up: Projection | None
    decoder: Projection
    activation_name: str | None
    """Dotted name of the module that is the activation, where there is one."""


@dataclass(frozen=True, eq=False)
class MLPSite:
    """What a dense layer of the host receives and what it adds, without the residual.

    Sites compare by identity and can be keys of a dictionary. Where the activation was not
    recognised, `dataclasses.replace(site, activation="gelu")` gives a site that knows it.
    """

    name: str
    """Dotted name of the module; of the first linear map where no module has the boundary."""
    layer_index: int | None
    """Position of the block; None for a module outside the blocks."""
    d_in: int
    d_out: int
    d_hidden: int | None
    """Hidden units; None for an opaque site, a module of unknown inside."""
    activation: str | None
    """Name in transformers' ACT2FN; None where it is unknown."""
    glu: bool | None
    """Whether the MLP is a gated linear unit; None for an opaque site."""
    verified: bool | None
    """Whether the weights give the module's output; None where that could not be tried."""
    boundary: Boundary
    """module: the module maps x to y; residual: it also adds a residual that it is given;
    split: the maps sit in the block, and no module goes from x to y."""
    module: nn.Module = field(repr=False)
    """The module that is called `name`."""
    parts: Parts | None = field(default=None, repr=False)
    """The linear maps; None for an opaque site."""
    like: Tensor | None = field(default=None, repr=False)
    """An empty tensor with the device and dtype of x, for modules without such parameters."""

    @property
    def device(self) -> torch.device:
        """Where the site's weights are, or where they are brought to when they are needed."""
        for module in self.module.modules():
            found = hook_device(module)
            if found is not None:
                return found
        return self._example().device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the site's weights."""
        return self._example().dtype

    def _example(self) -> Tensor:
        floating = (p for p in self.module.parameters() if p.is_floating_point())
        example = next(floating, self.like)
        return torch.empty(0) if example is None else example

    def dense_weights(self) -> DenseWeights:
        """The MLP's weights, as detached views of the host's own tensors where those are dense.

        Returns:
            encoder (d_hidden, d_in), decoder (d_hidden, d_out), for a GLU encoder_up
            (d_hidden, d_in), and the biases that exist.

        Raises:
            UserError: the inside of the site, or its activation, is unknown.
        """
        parts = self.parts
        if parts is None:
            raise UserError(
                f"got {self.name} ({type(self.module).__name__}), expected an MLP of "
                "known weights; this module can be captured and grafted, but not copied"
            )
        if self.activation is None:
            raise UserError(
                f"got {self.name}, whose output matches no activation known to transformers; "
                'give one: dataclasses.replace(site, activation="gelu")'
            )
        return DenseWeights(
            encoder=parts.encoder.weight,
            encoder_bias=parts.encoder.bias,
            encoder_up=None if parts.up is None else parts.up.weight,
            encoder_up_bias=None if parts.up is None else parts.up.bias,
            decoder=parts.decoder.weight.T,
            bias=parts.decoder.bias,
            activation=self.activation,
        )

    def tensors(self) -> list[Tensor | None]:
        """Every weight of the site in a fixed order, None for an absent bias."""
        if self.parts is None:
            names = sorted(name for name, _ in self.module.named_parameters())
            return [full_tensor(*_owner(self.module, name)) for name in names]
        maps = (self.parts.encoder, self.parts.up, self.parts.decoder)
        return [t for m in maps if m is not None for t in (m.weight, m.bias)]


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that has a parameter itself, and the parameter's name in it."""
    parent, _, own = name.rpartition(".")
    return module.get_submodule(parent), own


def site_fingerprint(site: MLPSite) -> str:
    """Sixteen hexadecimal digits that tell the site's dense weights from others.

    The weights are rounded to bfloat16 first, so that one checkpoint gives one fingerprint in
    float32 and in bfloat16. (float16 rounds differently, and may give another.) Quantised weights
    count as what they unpack to: they are other weights than those they were made from.

    Raises:
        UserError: the weights are not loaded (meta device).
    """
    digest = hashlib.sha256()
    for tensor in site.tensors():
        if tensor is None:
            digest.update(b"none;")
            continue
        if tensor.is_meta:
            raise UserError(
                f"got {site.name} on the meta device, expected loaded weights; "
                "load the model before taking a fingerprint"
            )
        digest.update(f"{tuple(tensor.shape)};".encode())
        rounded = tensor.to(torch.bfloat16).contiguous().cpu()
        digest.update(rounded.reshape(-1).view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]
