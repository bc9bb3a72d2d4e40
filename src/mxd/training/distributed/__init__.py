"""Training on several processes: how they divide the work, and what travels between them.

A single process needs none of this, and nothing outside imports it before it is asked for.
"""

from mxd.training.distributed.agreement import all_ranks, check_equal, total
from mxd.training.distributed.collectives import (
    Group,
    agreed_split,
    from_owners,
    gather_rows,
    sum_rows,
    to_owners,
)
from mxd.training.distributed.experts import ExpertParallel
from mxd.training.distributed.gradients import gradient_norm, sum_gradients
from mxd.training.distributed.groups import Groups
from mxd.training.distributed.layout import DIMENSIONS, Layout, dealt
from mxd.training.distributed.lost import LostProcessError, is_lost, lost_processes_named
from mxd.training.distributed.processes import Processes, first_told, listed
from mxd.training.distributed.shard_layer import (
    gather_layer,
    gather_units,
    replicated_parameters,
    shard_layer,
    unit_parameters,
)
from mxd.training.distributed.split import Split, split_units
from mxd.training.distributed.traffic import counted_traffic
from mxd.training.distributed.world import World, has_another_ended, under_torchrun, world

__all__ = [
    "DIMENSIONS",
    "ExpertParallel",
    "Group",
    "Groups",
    "Layout",
    "LostProcessError",
    "Processes",
    "Split",
    "World",
    "agreed_split",
    "all_ranks",
    "check_equal",
    "counted_traffic",
    "dealt",
    "first_told",
    "from_owners",
    "gather_layer",
    "gather_rows",
    "gather_units",
    "gradient_norm",
    "has_another_ended",
    "is_lost",
    "listed",
    "lost_processes_named",
    "replicated_parameters",
    "shard_layer",
    "split_units",
    "sum_gradients",
    "sum_rows",
    "to_owners",
    "total",
    "under_torchrun",
    "unit_parameters",
    "world",
]
