"""What all ranks have to agree on: whether to go on, and that they hold the same numbers."""

import hashlib
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from mxd.errors import UserError
from mxd.training.distributed.collectives import Group, gather_equal
from mxd.training.distributed.traffic import received


def all_ranks(flag: bool, group: Group) -> bool:
    """Whether it holds on all ranks: all have ended."""
    if group is None:
        return flag
    found = torch.tensor([int(not flag)], dtype=torch.int32)
    dist.all_reduce(found, dist.ReduceOp.MAX, group=group)
    received("agree", found.element_size())
    return int(found) == 0


def total(tensor: Tensor, group: Group) -> Tensor:
    """The sum over all ranks of what each holds (counts, sums of losses), a new tensor."""
    summed = tensor.detach().clone()
    if group is not None:
        dist.all_reduce(summed, group=group)
        received("sum", summed.numel() * summed.element_size())
    return summed


def check_equal(tensors: Mapping[str, Tensor], group: Group, *, what: str = "parameters") -> None:
    """Make sure that all ranks hold the same tensors, bit for bit; only hashes travel.

    Args:
        tensors: by name, in any order.
        group: the ranks.
        what: what they are, for the message.

    Raises:
        UserError: on every rank; names what differs, and which ranks differ from the first.
    """
    if group is None:
        return
    names = sorted(tensors)
    listed = _gathered_hashes([_hash("\n".join(names).encode())], group)
    if len(set(listed)) > 1:
        raise UserError(
            f"ranks {_unlike(listed, group)} have {what} of other names than the first, expected "
            "the same model and the same command on all; start them all alike"
        )
    if not names:
        return
    hashes = _gathered_hashes([_tensor_hash(tensors[name]) for name in names], group)
    rows = [hashes[i : i + len(names)] for i in range(0, len(hashes), len(names))]
    different = [name for i, name in enumerate(names) if len({row[i] for row in rows}) > 1]
    if different:
        who = _unlike([tuple(row) for row in rows], group)
        shown = ", ".join(different[:5]) + (" and others" if len(different) > 5 else "")
        raise UserError(
            f"ranks {who} have other {what} than the first ({shown}), expected the same bytes on "
            "all; start them all alike, or go on from the last checkpoint with --resume"
        )


def _tensor_hash(tensor: Tensor) -> int:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    kind = f"{tensor.dtype}{tuple(tensor.shape)}".encode()
    return _hash(kind, flat.view(torch.uint8).numpy().data if flat.numel() else b"")


def _hash(*parts: bytes | memoryview) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part)
    return int.from_bytes(digest.digest(), "little", signed=True)


def _gathered_hashes(own: list[int], group: dist.ProcessGroup) -> list[int]:
    ranks = dist.get_world_size(group)
    found = torch.empty(ranks * len(own), dtype=torch.int64)
    gather_equal(found, torch.tensor(own, dtype=torch.int64), group)
    received("agree", (ranks - 1) * len(own) * found.element_size())
    hashes: list[int] = found.tolist()
    return hashes


def _unlike(held: Sequence[object], group: dist.ProcessGroup) -> str:
    """The ranks whose value is not the first one's."""
    ranks = dist.get_process_group_ranks(group)
    return ", ".join(str(r) for r, value in zip(ranks, held, strict=True) if value != held[0])
