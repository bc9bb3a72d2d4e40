"""Run a frozen model's blocks through torch.compile, where no site looks into them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from torch import nn

from mxd.errors import UserError
from mxd.host._blocks import find_blocks
from mxd.host._site import MLPSite
from mxd.host._weights import is_quantised
from mxd.host.placing import has_several_processes


@contextlib.contextmanager
def compiled_blocks(
    model: nn.Module, sites: Iterable[MLPSite], backend: str = "inductor"
) -> Iterator[int]:
    """Compile the blocks up to the last of some sites, inside; the model is as before afterwards.

    Blocks that hold a site stay as they are, for the hooks in them. Blocks of one shape share their
    compiled code, so the first pass takes as long as compiling one of them (half a minute or so).
    Results differ from those of the plain model by rounding.

    Args:
        model: the frozen model.
        sites: the sites that are captured.
        backend: torch.compile's.

    Yields:
        How many blocks are compiled.

    Raises:
        UserError: the model has no stack of blocks, a site is in none of them, or the model is
            spread or quantised.
    """
    if any(hasattr(module, "_hf_hook") or is_quantised(module) for module in model.modules()):
        raise UserError(
            "got a model that is spread or quantised to compile, expected a plain one; train "
            "without compiling the model"
        )
    if has_several_processes(model):
        raise UserError(
            "got a model in parts on several processes to compile, expected a whole one; train "
            "without compiling the model"
        )
    blocks = find_blocks(model)
    indices = {site.layer_index for site in sites}
    if not indices or None in indices:
        raise UserError(
            "got a site outside the model's blocks, expected sites in blocks; train without "
            "compiling the model"
        )
    last = max(index for index in indices if index is not None)
    chosen = [b for i, b in enumerate(blocks.values()) if i < last and i not in indices]
    chosen = [block for block in chosen if block._compiled_call_impl is None]
    with contextlib.ExitStack() as stack:
        for block in chosen:
            block.compile(backend=backend)
            stack.callback(setattr, block, "_compiled_call_impl", None)
        yield len(chosen)
