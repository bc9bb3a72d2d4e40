"""Gradients that several ranks hold parts of: summed in buckets, and measured as one."""

from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from mxd.training.distributed.collectives import Group
from mxd.training.distributed.traffic import received

BUCKET_BYTES = 32 << 20
"""Gradients that travel together; what is larger travels in pieces of this size, uncopied."""


@torch.no_grad()
def sum_gradients(
    parameters: Iterable[nn.Parameter],
    group: Group,
    *,
    weight: Tensor | int | float | None = None,
    bucket_bytes: int = BUCKET_BYTES,
) -> None:
    """Replace every gradient by its sum over the ranks, the same bytes on all of them.

    Args:
        parameters: the same on all ranks, in the same order; a gradient that is missing on a rank
            counts as zero there.
        group: the ranks.
        weight: what this rank's gradients count with, such as its share of the batch's tokens.
        bucket_bytes: bytes of one exchange, and of the one temporary.
    """
    gradients = [_gradient(p) for p in parameters if p.requires_grad]
    if weight is not None:
        for gradient in gradients:
            gradient.mul_(weight)
    if group is None:
        return
    for bucket in _buckets(gradients, bucket_bytes):
        if len(bucket) == 1:
            step = max(1, bucket_bytes // bucket[0].element_size())
            for piece in bucket[0].view(-1).split(step):
                _sum(piece, group)
            continue
        flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
        _sum(flat, group)
        sizes = [gradient.numel() for gradient in bucket]
        for gradient, summed in zip(bucket, flat.split(sizes), strict=True):
            gradient.copy_(summed.view_as(gradient))


@torch.no_grad()
def gradient_norm(
    replicated: Iterable[nn.Parameter], sharded: Iterable[nn.Parameter], group: Group
) -> Float[Tensor, ""]:
    """The common norm of all gradients of a layer whose units are spread over ranks.

    Args:
        replicated: parameters whose gradients are the same on all ranks (`sum_gradients`).
        sharded: parameters of which each rank holds rows of its own.
        group: the ranks that share the units.
    """
    whole, rows = _gradients_of(replicated), _gradients_of(sharded)
    device = next((gradient.device for gradient in (*rows, *whole)), torch.device("cpu"))
    squared = _squared_norm(rows, device)
    if group is not None:
        _sum(squared, group)
    return (_squared_norm(whole, device) + squared).sqrt()


def _gradients_of(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]


def _squared_norm(gradients: list[Tensor], device: torch.device) -> Float[Tensor, ""]:
    if not gradients:  # torch's would be in host memory, and the device be waited for
        return torch.zeros((), device=device)
    norm: Tensor = torch.nn.utils.get_total_norm(gradients)
    return norm.square()


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter, memory_format=torch.contiguous_format)
    elif not parameter.grad.is_contiguous():
        parameter.grad = parameter.grad.contiguous()
    return parameter.grad


def _buckets(gradients: list[Tensor], most_bytes: int) -> Iterator[list[Tensor]]:
    """Gradients of one type and device, in order, as many as fit together; at least one."""
    kinds = dict.fromkeys((gradient.dtype, gradient.device) for gradient in gradients)
    for kind in kinds:
        bucket: list[Tensor] = []
        size = 0
        for gradient in gradients:
            if (gradient.dtype, gradient.device) != kind:
                continue
            bytes_more = gradient.numel() * gradient.element_size()
            if bucket and size + bytes_more > most_bytes:
                yield bucket
                bucket, size = [], 0
            bucket.append(gradient)
            size += bytes_more
        if bucket:
            yield bucket


def _sum(tensor: Tensor, group: dist.ProcessGroup) -> None:
    dist.all_reduce(tensor, group=group)
    if dist.get_world_size(group) > 1:
        received("sum", tensor.numel() * tensor.element_size())
