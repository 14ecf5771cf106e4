"""All processes of a resize, old and new, in one process group of their own.

It lies on the host, beside the groups of the epoch, which it does not touch. It never becomes
torch's group of all, so nothing but this object holds it, and ``leave`` closes its connections.
"""

import pickle
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import cast

import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore

from actors.epochs.groups import reach_store
from actors.moving.transfer import Place, Standing, joined
from moe.errors import DeadlineExceeded, RankLost

_POLL_SECONDS = 0.005

_LEFT = "left"
"""The key that tells why a process has left."""


class Gathering:
    """One process's end of the group.

    ``unwanted`` tells whether the resize was given up, which ends a wait for others to come. What
    waits in torch for one that died ends when number 0 closes the store: nothing here holds that,
    so the process does so when it is told to abort. What is wrong with a connection is torch's
    RuntimeError.
    """

    def __init__(self, place: Place, number: int, unwanted: Callable[[], bool]) -> None:
        self._place = place
        self._number = number
        self._unwanted = unwanted
        self._wait = timedelta(seconds=place.seconds)
        store = reach_store(place.host, place.port, place.seconds)
        self._store = PrefixStore(place.name, store)
        self._group: dist.ProcessGroup | None = None

    def standing(self, own: Sequence[Standing]) -> Standing:
        """Return what training has come to, by what all processes say; it goes over the store.

        Number 0 puts it together for the others. So all have come once this returns.
        """
        self._store.set(f"standing/{self._number}", pickle.dumps(list(own)).hex())
        if self._number == 0:
            told = [self._told(f"standing/{number}") for number in range(self._place.size)]
            found = [standing for each in told for standing in each]
            self._store.set("standing", pickle.dumps(found).hex())
        return joined(self._told("standing"))

    def connect(self) -> None:
        """Connect to all other processes."""
        store = PrefixStore("group", self._store)
        group = dist.ProcessGroupGloo(store, self._number, self._place.size, self._wait)
        self._group = cast(dist.ProcessGroup, group)

    def send(self, tensor: Tensor, to: int) -> dist.Work:
        """Begin to send a tensor of the host, which must not change until the work is done."""
        return self._connected().send([tensor], to, 0)

    def receive(self, tensor: Tensor, source: int) -> dist.Work:
        """Begin to receive into a tensor of the host."""
        return self._connected().recv([tensor], source, 0)

    def finish(self) -> None:
        """Wait until all processes have all that they need: none leaves under a message."""
        self._connected().barrier().wait()

    def leave(self, why: str = "it is done") -> None:
        """Close the connections; a process that waits for this one is freed.

        Those that still wait for all to come are told ``why`` over the store.
        """
        self._group = None
        with suppress(RuntimeError):  # the process with the store has gone
            self._store.set(_LEFT, why)

    def _connected(self) -> dist.ProcessGroup:
        if self._group is None:
            raise RankLost("this process has left the group of its resize")
        return self._group

    def _told(self, key: str) -> list[Standing]:
        """Wait for what another process says; RankLost once the resize is given up."""
        try:
            return self._awaited(key)
        except RuntimeError as error:
            raise RankLost(f"{self._place.name} was given up: its store is closed") from error

    def _awaited(self, key: str) -> list[Standing]:
        until = time.monotonic() + self._place.seconds
        while not self._store.check([key]):
            if self._unwanted():
                raise RankLost(f"{self._place.name} was given up")
            if self._store.check([_LEFT]):
                why = self._store.get(_LEFT).decode()
                raise RankLost(f"{self._place.name} was given up by another process: {why}")
            if time.monotonic() > until:
                raise DeadlineExceeded(
                    f"not all {self._place.size} processes of {self._place.name} met within "
                    f"{self._place.seconds:g} s; look at their logs, or raise cluster.group_seconds"
                )
            time.sleep(_POLL_SECONDS)
        found: list[Standing] = pickle.loads(bytes.fromhex(self._store.get(key).decode()))
        return found
