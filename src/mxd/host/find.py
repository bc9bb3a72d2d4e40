"""Find the MLPs of a language model from its module tree, shapes and behaviour."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from mxd.errors import UserError
from mxd.host._activation import configured_names
from mxd.host._blocks import Candidate, describe_block, find_blocks, mlp_candidates
from mxd.host._calls import dummy_token_ids, eval_mode, input_device
from mxd.host._opaque import opaque_site
from mxd.host._site import Boundary, MLPSite, Parts
from mxd.host._taps import StopForward, Tap, recording
from mxd.host._verify import Finding, Observation, explain, guess, observe
from mxd.host._weights import is_quantised, stored_dtype
from mxd.host._wrapper import ungrafted

logger = logging.getLogger(__name__)


def find_mlps(model: nn.Module) -> list[MLPSite]:
    """The dense MLPs of a model, in the order of its layers.

    Blocks without one (mixtures of experts) are left out. Each MLP is run on random input and
    recomputed from the weights found: `MLPSite.verified` says whether the two agree.

    Args:
        model: a transformer, in any mode, precision and on any device; grafts are looked through.

    Returns:
        One site for each block that has a dense MLP.

    Raises:
        UserError: no block has one, or the model has no stack of blocks.
    """
    with ungrafted(model), eval_mode(model):
        blocks = find_blocks(model)
        sites = _sites(model, list(enumerate(blocks.items())))
        if not sites:
            name, block = next(iter(blocks.items()))
            raise UserError(_no_mlp(name, block))
        return [site for _, site in sorted(sites.items())]


def find_site(model: nn.Module, which: int | str) -> MLPSite:
    """One site, by the index of its layer or by the dotted name of a module.

    Args:
        model: a transformer.
        which: the index of a block, for its MLP; the name of an MLP (`MLPSite.name`); or the
            name of any other module from (..., d_in) to (..., d_out), which gives an opaque
            site: it can be captured and grafted, but its weights are not understood.

    Returns:
        The site. For an opaque one `d_hidden`, `activation`, `glu` and `verified` are None.

    Raises:
        UserError: there is no such layer or module, its block has no dense MLP, or the module
            does not map one tensor to one tensor.
    """
    with ungrafted(model), eval_mode(model):
        return _by_index(model, which) if isinstance(which, int) else _by_name(model, which)


def _by_index(model: nn.Module, index: int) -> MLPSite:
    blocks = list(find_blocks(model).items())
    if not 0 <= index < len(blocks):
        raise UserError(
            f"got layer {index}, expected 0 to {len(blocks) - 1}: "
            f"the model has {len(blocks)} blocks; choose one of them"
        )
    sites = _sites(model, [(index, blocks[index])])
    if index not in sites:
        raise UserError(_no_mlp(*blocks[index]))
    return sites[index]


def _by_name(model: nn.Module, name: str) -> MLPSite:
    modules = dict(model.named_modules())
    if name not in modules or not name:
        close = difflib.get_close_matches(name, list(modules), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "see model.named_modules()"
        raise UserError(f"got module name {name!r}, expected one of the model's modules; {hint}")
    index = None
    if any(isinstance(module, nn.ModuleList) for module in modules.values()):
        for position, (block_name, block) in enumerate(find_blocks(model).items()):
            if f"{name}.".startswith(f"{block_name}."):
                index = position
                site = _sites(model, [(index, (block_name, block))]).get(index)
                if site is not None and site.name == name:
                    return site
    return opaque_site(model, name, index)


def _no_mlp(name: str, block: nn.Module) -> str:
    return (
        f"got no dense MLP in {describe_block(name, block)}; expected linear maps d→h (one, two "
        "or fused) and h→d, as a mixture of experts has none; choose another layer, or give the "
        "name of any module to replace (find_site(model, NAME), --site NAME)"
    )


def _sites(model: nn.Module, blocks: list[tuple[int, tuple[str, nn.Module]]]) -> dict[int, MLPSite]:
    """The site of each block that has one, by its index."""
    candidates = {index: mlp_candidates(*named) for index, named in blocks}
    split = [c for found in candidates.values() for c in found if c.split]
    observed = _observe_split(model, split)
    configured = configured_names(model)
    sites = {}
    for index, found in candidates.items():
        finding = _best(found, observed, configured)
        if finding is not None:
            sites[index] = _site(index, finding)
    return sites


def _best(
    candidates: Iterable[Candidate],
    observed: dict[Candidate, Observation] | None,
    configured: list[str],
) -> Finding | None:
    """The first candidate whose output is recomputed, or else the last that might be an MLP."""
    doubtful = []
    for candidate in candidates:
        if candidate.split and observed is None:
            doubtful.append(guess(candidate, configured))
            continue
        observation = (observed or {}).get(candidate) if candidate.split else observe(candidate)
        if observation is not None:
            finding = explain(candidate, observation, configured)
            if finding.verified:
                return finding
            doubtful.append(finding)
    # Arrangements come likeliest first within a module, and attention comes before the MLP.
    last = doubtful[-1].candidate.module if doubtful else None
    return next((finding for finding in doubtful if finding.candidate.module is last), None)


def _observe_split(
    model: nn.Module, candidates: list[Candidate]
) -> dict[Candidate, Observation] | None:
    """Real (x, y) of maps that sit in a block, from a pass of the model over a few tokens.

    None where the model cannot be run like that: then there is nothing to compare with.
    """
    if not candidates:
        return {}
    taps = {c: Tap(str(i), c.encoder.module, c.decoder.module) for i, c in enumerate(candidates)}
    if input_device(model).type == "meta":
        return None
    with recording(model, list(taps.values()), stop=True) as values:
        try:
            model(input_ids=dummy_token_ids(model), use_cache=False)
        except StopForward:
            pass
        except Exception as error:  # it is somebody's model: the sites are still worth having
            logger.warning("the MLPs cannot be verified: a forward pass failed (%s)", error)
            return None
    return {
        candidate: Observation(*values[tap.name], adds_residual=False)
        for candidate, tap in taps.items()
        if tap.name in values
    }


def _site(index: int, finding: Finding) -> MLPSite:
    candidate = finding.candidate
    name = candidate.encoder.name if candidate.split else candidate.name
    if finding.verified is False:
        logger.warning(
            "%s: the output is not that of the weights found with any activation that "
            "transformers knows; its activation must be given",
            name,
        )
    return MLPSite(
        name=name,
        layer_index=index,
        d_in=candidate.encoder.d_from,
        d_out=candidate.decoder.d_to,
        d_hidden=candidate.decoder.d_from,
        activation=finding.activation,
        glu=candidate.up is not None,
        verified=finding.verified,
        boundary=_boundary(finding),
        module=candidate.encoder.module if candidate.split else candidate.module,
        parts=Parts(candidate.encoder, candidate.up, candidate.decoder, finding.activation_name),
        like=_like(candidate.encoder.module),
    )


def _like(module: nn.Module) -> Tensor | None:
    """An empty tensor that says what a packed weight does not."""
    if not is_quantised(module):
        return None
    return torch.empty(0, dtype=stored_dtype(module), device=next(module.parameters()).device)


def _boundary(finding: Finding) -> Boundary:
    if finding.candidate.split:
        return "split"
    return "residual" if finding.adds_residual else "module"
