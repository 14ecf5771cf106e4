"""Who takes part: a membership epoch, and the process groups that belong to it.

Process groups live for one epoch. When any rank is lost the survivors destroy theirs, which frees
neighbours that wait on them within milliseconds, and meet again under the next epoch.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import psutil
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from moe.errors import RankLost, RaymoeError, StorageError


@dataclass(frozen=True, slots=True)
class Membership:
    """One rank's place in one epoch of a run; rank = stage * gang + member.

    ``host`` and ``port`` lead to the store of rank 0, ``seconds`` bounds every wait of a group.
    """

    run: str
    epoch: int
    rank: int
    stages: int
    gang: int
    host: str
    port: int
    seconds: float

    @property
    def name(self) -> str:
        """Prefix of the names of this epoch's process groups."""
        return f"{self.run}/epoch-{self.epoch}"

    @property
    def world(self) -> int:
        """Number of ranks."""
        return self.stages * self.gang

    @property
    def stage(self) -> int:
        """Stage of this rank."""
        return self.rank // self.gang

    @property
    def member(self) -> int:
        """Place of this rank in its gang."""
        return self.rank % self.gang


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
    """The process groups of one rank in one epoch.

    ``world`` holds all ranks; ``gang`` those of this stage; ``pipe`` this member of every stage;
    ``ends`` this member of the first and the last stage, None on the stages between.
    """

    def __init__(self, membership: Membership, device: torch.device, store: Store | None) -> None:
        self.membership = membership
        wait = timedelta(seconds=membership.seconds)
        if store is None:
            store = TCPStore(membership.host, membership.port, timeout=wait)
        prefix = membership.name
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=PrefixStore(prefix, store),
            rank=membership.rank,
            world_size=membership.world,
            timeout=wait,
            group_name=prefix,
        )
        self.world = dist.group.WORLD
        self.gang = self._own("gang", _gangs(membership), wait)
        self.pipe = self._own("pipe", _pipes(membership), wait)
        self.ends = self._own("ends", _ends(membership), wait)

    def stage_rank(self, stage: int) -> int:
        """Return the global rank of this member in another stage."""
        return stage * self.membership.gang + self.membership.member

    def gang_rank(self, member: int) -> int:
        """Return the global rank of another member of this gang."""
        return self.membership.stage * self.membership.gang + member

    def _own(self, kind: str, groups: list[list[int]], wait: timedelta) -> dist.ProcessGroup | None:
        """Create every group of a kind, as all ranks must, and keep the one of this rank."""
        prefix = self.membership.name
        own = None
        for number, ranks in enumerate(groups):
            group = dist.new_group(ranks, timeout=wait, group_desc=f"{prefix}/{kind}-{number}")
            if self.membership.rank in ranks:
                own = group
        return own


def destroy_groups() -> None:
    """Drop all process groups of this process; neighbours that wait on them fail at once."""
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def guarded(rank: int, doing: str) -> Iterator[None]:
    """Free the neighbours when communication breaks, and say so as RankLost."""
    try:
        yield
    except RaymoeError:
        destroy_groups()
        raise
    except OSError as error:
        destroy_groups()
        raise StorageError(
            f"rank {rank} failed during {doing}: {error}; every rank must reach the same files "
            "with room on the disk"
        ) from error
    except Exception as error:
        destroy_groups()
        raise RankLost(f"rank {rank} failed during {doing}: {error}") from error


def _gangs(membership: Membership) -> list[list[int]]:
    size = membership.gang
    return [[stage * size + m for m in range(size)] for stage in range(membership.stages)]


def _pipes(membership: Membership) -> list[list[int]]:
    size = membership.gang
    return [[stage * size + m for stage in range(membership.stages)] for m in range(size)]


def _ends(membership: Membership) -> list[list[int]]:
    if membership.stages == 1:
        return []
    size = membership.gang
    return [[m, (membership.stages - 1) * size + m] for m in range(size)]
