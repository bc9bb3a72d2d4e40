"""How a layer starts: the paper's way, which `build` gives, and others to compare it with."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mxd.errors import UserError
from mxd.host import MLPSite
from mxd.layers import DenseMLP, Layer, MLPTranscoder, MxD
from mxd.training.recipe import Recipe


class _DenseBranch(NamedTuple):
    encoder: nn.Linear
    encoder_up: nn.Linear | None
    decoder: nn.Parameter


@torch.no_grad()
def start_layer(layer: Layer, start: str, site: MLPSite) -> None:
    """Change how a freshly built layer starts, drawing from torch's global random state.

    Args:
        layer: a layer as `build` gives it, which is the `paper` start.
        start: `paper`; `random_decoder`, D like nn.Linear instead of zero; `base_mlp`, encoder and
            D copied from the site's MLP; `unit_modulators`, modulators at 1 plus what nn.Linear
            gives. Layers without such a part stay as they are.
        site: the site whose MLP is copied.

    Raises:
        UserError: the site's weights are unknown, or its hidden width is another.
    """
    if start == "unit_modulators" and isinstance(layer, MxD):
        layer.modulators.add_(1)
        if layer.config.unit_norm:
            layer.normalise_units()
    branch = _dense_branch(layer)
    if branch is None:
        return
    if start == "random_decoder":
        bound = branch.decoder.shape[0] ** -0.5  # nn.Linear's, for H inputs
        branch.decoder.uniform_(-bound, bound)
    elif start == "base_mlp":
        _copy(branch, site)


def check_starts(recipe: Recipe, sites: list[MLPSite]) -> None:
    """Find, before any work is done, a `base_mlp` start that cannot be made.

    Raises:
        UserError: a site's weights are unknown, or its hidden width is another.
    """
    for spec in recipe.students:
        options = spec.options.on(recipe.layer)
        if options.start == "base_mlp" and spec.architecture in _WITH_DENSE_BRANCH:
            for site in sites:
                _check_width(site, options.d_hidden or site.dense_weights().encoder.shape[0])


_WITH_DENSE_BRANCH = ("mxd", "dense_mlp", "mlp_transcoder")


def _dense_branch(layer: Layer) -> _DenseBranch | None:
    if isinstance(layer, (MxD, DenseMLP)):
        return _DenseBranch(layer.encoder, layer.encoder_up, layer.decoder)
    if isinstance(layer, MLPTranscoder):
        return _DenseBranch(layer.mlp_encoder, layer.mlp_encoder_up, layer.mlp_decoder)
    return None


def _check_width(site: MLPSite, d_hidden: int) -> None:
    own = site.dense_weights().encoder.shape[0]
    if d_hidden != own:
        raise UserError(
            f"got start base_mlp with d_hidden={d_hidden}, expected the {own} hidden units of "
            f"{site.name}; leave d_hidden out, or choose another start"
        )


def _copy(branch: _DenseBranch, site: MLPSite) -> None:
    dense = site.dense_weights()
    _check_width(site, branch.decoder.shape[0])
    _fill(branch.encoder, dense.encoder, dense.encoder_bias)
    if branch.encoder_up is not None and dense.encoder_up is not None:
        _fill(branch.encoder_up, dense.encoder_up, dense.encoder_up_bias)
    branch.decoder.copy_(dense.decoder)


def _fill(layer: nn.Linear, weight: Tensor, bias: Tensor | None) -> None:
    layer.weight.copy_(weight)
    if bias is not None:
        layer.bias.copy_(bias)
