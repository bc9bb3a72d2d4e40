"""Which ranks this one works with, and for what."""

from dataclasses import dataclass

import torch
import torch.distributed as dist

from mxd.errors import UserError
from mxd.training.distributed.collectives import Group
from mxd.training.distributed.layout import Layout
from mxd.training.distributed.world import group_timeout


@dataclass(frozen=True)
class Groups:
    """This rank's groups; None where it is alone in one."""

    layout: Layout
    """Sizes of the mesh."""
    place: tuple[int, int, int]
    """This rank's coordinates: data, students, experts."""
    everyone: Group
    """All ranks: what a run agrees on."""
    data: Group
    """Ranks that hold the same units of the same students: their units' gradients are summed."""
    experts: Group
    """Ranks that share the units of the same students."""
    batch: Group
    """Ranks that see the same part of a batch, whatever they train: they share its rows."""
    replicas: Group
    """Ranks of the same students: gradients of what is not cut into units are summed over them."""

    @classmethod
    def of(cls, layout: Layout, device_type: str = "cpu") -> "Groups":
        """The groups of a layout; every rank of the run has to call it.

        Args:
            layout: sizes of the mesh.
            device_type: `cpu` or `cuda`.

        Raises:
            UserError: a layout for another number of processes.
        """
        size = dist.get_world_size() if dist.is_initialized() else 1
        if layout.world_size != size:
            raise UserError(
                f"got layout {layout} of {layout.world_size} processes and {size} of them, "
                "expected the same number; change the layout or start as many"
            )
        if size == 1:
            return cls(layout, (0, 0, 0), None, None, None, None, None)
        mesh = layout.mesh(device_type)
        ranks = mesh.mesh  # (data, students, experts)
        place = mesh.get_coordinate()
        assert place is not None  # every rank of the run is in the mesh
        groups = cls(
            layout=layout,
            place=(place[0], place[1], place[2]),
            everyone=dist.group.WORLD,
            # The mesh's own groups would wait for 30 minutes, whatever was asked for.
            data=_own_of(ranks.permute(1, 2, 0).flatten(0, 1)),
            experts=_own_of(ranks.flatten(0, 1)),
            batch=_own_of(ranks.flatten(1)),
            replicas=_own_of(ranks.transpose(0, 1).flatten(1)),
        )
        groups.try_out(device_type)
        return groups

    def try_out(self, device_type: str) -> None:
        """Exchange a number in every group, so that one that does not work is known at the start.

        Args:
            device_type: `cpu` or `cuda`; on GPUs both ways are tried.
        """
        for group in (self.everyone, self.data, self.experts, self.batch, self.replicas):
            if group is None:
                continue
            for device in dict.fromkeys(("cpu", device_type)):
                found = torch.ones((), device=device)
                dist.all_reduce(found, group=group)
                assert int(found) == dist.get_world_size(group)


def _own_of(rows: torch.Tensor) -> Group:
    """The group among these rows of ranks that this rank is in."""
    group, _ = dist.new_subgroups_by_enumeration(rows.tolist(), timeout=group_timeout())
    return _unless_alone(group)


def _unless_alone(group: Group) -> Group:
    return group if group is not None and dist.get_world_size(group) > 1 else None
