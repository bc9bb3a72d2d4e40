"""Run a model from the block of a site on, when the blocks before it would give the same again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from mxd.errors import UserError
from mxd.host._blocks import find_blocks
from mxd.host._site import MLPSite


class Resume:
    """What the blocks before some sites gave, to be given again instead of computed.

    Nothing is assumed of a block but that it is called once in a pass. Whether a model can be
    resumed (no block but the next sees what a block gave) is for the caller to find out: resume
    with nothing changed, and compare with the whole pass.
    """

    def __init__(self, model: nn.Module, sites: Iterable[MLPSite]) -> None:
        self._before = {site.name: _blocks_before(model, site) for site in sites}
        self._given: dict[nn.Module, Any] = {}

    def can(self, site: str) -> bool:
        """Whether there are blocks before this site's that can be left out."""
        return bool(self._before.get(site))

    def give_up(self, site: str) -> None:
        """Never leave out the blocks before this site."""
        self._before[site] = []

    @contextlib.contextmanager
    def remember(self) -> Iterator[None]:
        """Keep a copy of what the block before each site gives, in the pass made inside."""
        self._given.clear()
        last = {blocks[-1] for blocks in self._before.values() if blocks}
        with contextlib.ExitStack() as stack:
            for block in last:
                stack.callback(block.register_forward_hook(self._keep).remove)
            yield

    @contextlib.contextmanager
    def resuming(self, sites: Iterable[str]) -> Iterator[None]:
        """Leave out the blocks before the first of these sites, in passes over the same input."""
        blocks = min((self._before.get(site, []) for site in sites), key=len)
        if not blocks or blocks[-1] not in self._given:
            yield
            return
        given = self._given[blocks[-1]]

        def again(*_args: Any, **_kwargs: Any) -> Any:
            return _copied(given)

        with contextlib.ExitStack() as stack:
            for block in blocks:  # by instance: everything else about the block stays as it is
                stack.callback(_restore, block, block.__dict__.get("forward"))
                block.__dict__["forward"] = again
            yield

    def _keep(self, block: nn.Module, _args: Any, output: Any) -> None:
        self._given[block] = _copied(output)


def _blocks_before(model: nn.Module, site: MLPSite) -> list[nn.Module]:
    if site.layer_index is None:
        return []
    try:
        blocks = list(find_blocks(model).values())
    except UserError:
        return []
    before = blocks[: site.layer_index]
    return before if len(set(map(id, blocks))) == len(blocks) else []


def _copied(value: Any) -> Any:
    """A copy down to the tensors: some hosts go on to work in place."""
    if isinstance(value, Tensor):
        return value.clone()
    if type(value) in (tuple, list):
        return type(value)(_copied(item) for item in value)
    return value


def _restore(block: nn.Module, forward: Any) -> None:
    if forward is None:
        block.__dict__.pop("forward", None)
    else:
        block.__dict__["forward"] = forward
