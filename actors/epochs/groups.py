"""The process groups of one rank in one membership epoch.

Process groups live for one epoch. A rank whose command failed leaves all its groups
(``actors.epochs.leaving``), and the failure goes from neighbour to neighbour. Then all meet again
under the next epoch.
"""

import socket
import threading
import time
from collections.abc import Collection
from concurrent.futures import Future
from dataclasses import replace
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from actors.device import GLOO, Device
from actors.epochs.leaving import standing
from actors.epochs.lines import DOWN, UP, Line, Route, routes_of
from actors.epochs.membership import Membership
from moe.errors import RankLost

REACH_SECONDS, TRY_SECONDS = 10.0, 1.0
"""A store is open before anybody is told of it, and is reached in milliseconds; one whose process
has died meanwhile never is."""


def open_store(host: str, seconds: float) -> TCPStore:
    """Open the store where the ranks of an epoch meet, on a free port of rank 0's host."""
    return TCPStore(
        host, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=seconds)
    )


def reach_store(host: str, port: int, seconds: float) -> TCPStore:
    """Connect to a store that is open; every later wait there ends after ``seconds``.

    torch tries again for as long as it may, also where nobody listens any more: so it may not long.
    """
    deadline = time.monotonic() + min(seconds, REACH_SECONDS)
    while True:
        try:
            store = TCPStore(host, port, timeout=timedelta(seconds=min(seconds, TRY_SECONDS)))
        except dist.DistError as error:
            if not _listens(host, port):
                raise RankLost(
                    f"the meeting at {host}:{port} was given up: its store is closed"
                ) from error
            if time.monotonic() > deadline:
                raise
        else:
            store.set_timeout(timedelta(seconds=seconds))
            return store


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), TRY_SECONDS).close()
    except ConnectionRefusedError:
        return False
    except OSError:
        return True  # the network is slow
    return True


class Groups:
    """The process groups of one rank in one epoch; None where it would be alone in one.

    ``world`` holds all ranks. ``gang`` holds those of this stage and replica. ``lines`` are the
    ends of the routes of some ``ways`` between this member of this stage and the same member of
    others.
    ``ends`` holds this member of the stages with embedding and head, where these are two and
    gradients go between them.
    ``data`` holds this place in every replica. Two groups are for tensors in memory of the host
    that travel while the next step runs: ``files`` holds the gang again, for those on their way to
    a checkpoint; ``copies``, where it is asked for, all ranks, for those on their way to a peer.
    All other groups have the ``backend`` of the device.
    """

    def __init__(
        self,
        membership: Membership,
        backend: str,
        store: Store | None,
        ways: Collection[str] = (DOWN, UP),
        copies: bool = False,
    ) -> None:
        self.membership = membership
        self.backend = backend
        self._wait = timedelta(seconds=membership.seconds)
        self._numbers: list[Tensor] = []
        if store is None:
            store = reach_store(membership.host, membership.port, membership.seconds)
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
        self.lines = self._lines(ways)
        ends = [membership.at(stage=each) for each in membership.ends]
        self.ends = self._own("ends", ends) if UP in ways else None
        self.data = self._own("data", [seats.rank(each) for each in seats.data_group_of(seat)])
        self.files = self._own("files", gang, GLOO)
        self.copies = self._all("copies", GLOO) if copies else None

    def connect(self, device: Device) -> None:
        """Have every connection made now, within the seconds of a message, or raise RankLost.

        gloo makes its connections with the groups. NCCL makes each with its first message, and
        where a network is wrong that message never ends: better here than in the first step.
        """
        if self.backend == GLOO:
            return
        connected: Future[None] = Future()

        def work() -> None:
            try:
                device.use()
                ends = len(self._collective) + len(self.lines)
                self._numbers = list(torch.zeros(ends, 1, device=device.torch_device))
                for each in self._messages():
                    each.wait()
                device.synchronise()
                connected.set_result(None)
            except BaseException as error:
                connected.set_exception(error)

        threading.Thread(target=work, name="connections of an epoch", daemon=True).start()
        try:
            connected.result(self._wait.total_seconds())
        except TimeoutError as error:
            raise RankLost(
                f"rank {self.membership.rank} could not connect to its neighbours over "
                f"{self.backend} within {self._wait.total_seconds():g} s; look whether "
                "NCCL_SOCKET_IFNAME names the interface on which the nodes reach each other, run "
                "with NCCL_DEBUG=INFO, or raise cluster.group_seconds"
            ) from error

    def check(self) -> None:
        """Raise unless this rank is in the epoch and every connection is whole.

        To be asked after a result was read and before anything depends on it: on NCCL a sum that
        was given up has a result too. A group that NCCL itself gave up refuses every later message,
        so one is sent over each, for which nobody waits. All ranks of the run must ask together.
        """
        self.stay()
        self._messages()

    def stay(self) -> None:
        """Raise RankLost once this rank has left the epoch; asks no other rank."""
        if self.world is None or not standing(self.world):
            raise RankLost(
                f"rank {self.membership.rank} has left epoch {self.membership.epoch} meanwhile; "
                "what it read last is no sum of all ranks"
            )

    @property
    def _collective(self) -> list[dist.ProcessGroup]:
        """The groups of the device, other than those of lines."""
        every = (self.world, self.gang, self.ends, self.data)
        return [group for group in every if group is not None]

    def _messages(self) -> list[dist.Work]:
        """Send one number over every connection of the device, in the order that all keep to."""
        if not self._numbers:
            return []
        numbers = iter(self._numbers)
        works = [
            dist.all_reduce(next(numbers), group=group, async_op=True) for group in self._collective
        ]
        for route, line in self.lines.items():
            sends = route.sender == self.membership.seat.stage
            number = next(numbers)
            works.append(line.send(number) if sends else line.receive(number))
        return works

    def _lines(self, ways: Collection[str]) -> dict[Route, Line]:
        """Meet the other ends of the routes from and to this stage.

        Every rank calls for every line of the run. With local synchronisation torch would name a
        group after the number of groups that a rank has, and stages in the middle have more.
        """
        membership, found = self.membership, {}
        seats, name = membership.seats, membership.name
        for route in routes_of(membership.homes, ways):
            for seat in filter(lambda each: each.stage == route.sender, seats):
                ends = [seats.rank(seat), seats.rank(replace(seat, stage=route.receiver))]
                desc = f"{name}/{'-'.join(map(str, route))}"
                group = dist.new_group(ends, timeout=self._wait, group_desc=desc)
                if membership.rank in ends:
                    ends.remove(membership.rank)
                    found[route] = Line(group, dist.get_group_rank(group, *ends))
        return found

    def _all(self, kind: str, backend: str) -> dist.ProcessGroup | None:
        """Meet all ranks once more. As for lines, torch must not count the groups of each rank."""
        if len(self.membership.seats) == 1:
            return None
        desc = f"{self.membership.name}/{kind}"
        group: dist.ProcessGroup = dist.new_group(
            timeout=self._wait, backend=backend, group_desc=desc
        )
        return group

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
