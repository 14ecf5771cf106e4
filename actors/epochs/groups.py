"""The process groups of one rank in one membership epoch, and how it lets go of them.

Process groups live for one epoch. Connections close when nothing holds a group any more, and only
that frees neighbours that wait on them, within milliseconds: gloo cannot be told to give up a wait.
So a rank whose command failed lets go of all its groups, and the failure goes from neighbour to
neighbour. Then all meet again under the next epoch.
"""

import os
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import psutil
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from actors.device import GLOO
from actors.epochs.membership import Membership
from moe.errors import RankLost, RaymoeError, StorageError

_DESTROYING = threading.Lock()


def open_store(host: str, seconds: float) -> TCPStore:
    """Open the store where the ranks of an epoch meet, on a free port of rank 0's host."""
    return TCPStore(
        host, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=seconds)
    )


def use_interface_of(host: str) -> None:
    """Let gloo listen where other nodes reach this one, unless the environment says where.

    Left alone it asks for the host's name, which many systems answer with a loopback address.
    """
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address == host for address in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


class Groups:
    """The process groups of one rank in one epoch; None where it would be alone in one.

    ``world`` holds all ranks. ``gang`` holds those of this stage and replica. ``down`` and ``up``
    both hold this member of every stage of its replica: activations go down and gradients up, each
    way on its own, so that a receive posted early on one never stands before a send on the other.
    ``ends`` holds this member of the stages with embedding and head, where these are two.
    ``data`` holds this place in every replica. ``files`` holds the gang again, for tensors in
    memory of the host on their way to a checkpoint while the next step runs; all other groups have
    the ``backend`` of the device.
    """

    def __init__(self, membership: Membership, backend: str, store: Store | None) -> None:
        self.membership = membership
        self.backend = backend
        self._wait = timedelta(seconds=membership.seconds)
        if store is None:
            store = TCPStore(membership.host, membership.port, timeout=self._wait)
        prefix = membership.name
        dist.init_process_group(
            backend,
            store=PrefixStore(prefix, store),
            rank=membership.rank,
            world_size=len(membership.seats),
            timeout=self._wait,
            group_name=prefix,
        )
        seat, seats = membership.seat, membership.seats
        self.world = dist.group.WORLD
        gang = [seats.rank(each) for each in seats.gang_of(seat)]
        self.gang = self._own("gang", gang)
        pipe = [seats.rank(each) for each in seats.pipeline_of(seat)]
        self.down = self._own("down", pipe)
        self.up = self._own("up", pipe)
        self.ends = self._own("ends", [membership.at(stage=each) for each in membership.ends])
        self.data = self._own("data", [seats.rank(each) for each in seats.data_group_of(seat)])
        self.files = self._own("files", gang, GLOO)

    def _own(
        self, kind: str, ranks: list[int], backend: str | None = None
    ) -> dist.ProcessGroup | None:
        """Meet the ranks of one group of this rank; all make their kinds of groups in one order."""
        if self.membership.rank not in ranks or len(set(ranks)) == 1:
            return None
        group: dist.ProcessGroup = dist.new_group(
            ranks,
            timeout=self._wait,
            backend=backend,
            use_local_synchronization=True,
            group_desc=f"{self.membership.name}/{kind}",
        )
        return group


def destroy_groups() -> None:
    """Drop torch's own hold on all process groups of this process; from any thread."""
    with _DESTROYING:
        if dist.is_initialized():
            dist.destroy_process_group()


@contextmanager
def guarded(rank: int, doing: str) -> Iterator[None]:
    """Say as RankLost that communication broke; what failed holds no group any more."""
    try:
        yield
    except RaymoeError as error:
        _let_go(error)
        raise
    except OSError as error:
        _let_go(error)
        raise StorageError(
            f"rank {rank} failed during {doing}: {error}; every rank must reach the same files "
            "with room on the disk"
        ) from error
    except Exception as error:
        _let_go(error)
        raise RankLost(f"rank {rank} failed during {doing}: {error}") from error


def _let_go(error: BaseException) -> None:
    """Drop the groups, also those that locals of the functions that failed hold."""
    traceback.clear_frames(error.__traceback__)
    destroy_groups()
