"""How a process lets go of its groups, from any thread and under whatever runs.

gloo cannot be told to give up a wait. Connections close when nothing holds a group any more, and
that frees the neighbours within milliseconds.

NCCL must be told. Left to its shutdown, it first waits for what is under way, and what waits for a
dead rank is under way for ever. An abort ends its kernels; whoever waits for them then reads
whatever lies in memory. So a rank asks ``standing`` before it believes a sum.
"""

import threading

import torch.distributed as dist
from torch.distributed.distributed_c10d import _abort_process_group, _world

from actors.device import GLOO

_LEAVING = threading.Lock()


def leave_groups() -> None:
    """End all process groups of this process.

    Groups are named by their number, which all ranks must count alike. One that was made in another
    thread, after this one had ended all, would be counted for ever.
    """
    with _LEAVING:
        if not dist.is_initialized():
            _world.group_count = 0
            return
        if dist.get_backend() == GLOO:
            dist.destroy_process_group()
        else:
            _abort_process_group()


def standing(world: dist.ProcessGroup) -> bool:
    """Tell whether this process is still in the epoch of a group of all.

    Waits while another thread leaves: what was read since that began may be no sum.
    """
    with _LEAVING:
        return dist.is_initialized() and dist.group.WORLD is world
