"""Carries out the messages of one process: packs what it gives, puts what it takes in its place.

A few messages are under way at a time, so that the next is packed while the last travels, and a
process needs memory for those few alone. The oldest is waited for first; messages.py tells why no
process then waits for ever.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from actors.faults.points import POINTS
from actors.moving.contents import VALUES, Contents, Flat, read
from actors.moving.gathering import Gathering
from moe.errors import RankLost
from moe.planning.moves.messages import Message, Part

AHEAD = 4
"""Messages under way at a time."""


class _UnderWay(NamedTuple):
    """A message that is being sent or received, and what to do once it is there."""

    work: dist.Work
    arrived: Callable[[], None]


class Carrier:
    """Moves tensors between this process and the others of a resize.

    ``sources`` are what it holds, ``target`` the new share that it fills, empty where it has none;
    ``unwanted`` tells between two messages whether the resize was given up.
    """

    def __init__(
        self,
        gathering: Gathering,
        sources: Sequence[Contents],
        target: Contents,
        unwanted: Callable[[], bool],
    ) -> None:
        self.sent_bytes = 0
        self.received_bytes = 0
        self._gathering = gathering
        self._sources = sources
        self._target = target
        self._unwanted = unwanted
        self._under_way = deque[_UnderWay]()

    @torch.no_grad()
    def carry(self, part: Part, step: int) -> None:
        """Send and receive every message of a part, in its order, at the boundary of a step."""
        try:
            for message in part.messages:
                if len(self._under_way) == AHEAD:
                    self._settle()
                gives = message.giver == part.number
                self._under_way.append(self._given(message) if gives else self._taken(message))
            POINTS.reach("resize", step)
            while self._under_way:
                self._settle()
        finally:
            self._under_way.clear()  # a message that is held keeps its connection open

    def _settle(self) -> None:
        """Wait for the oldest message."""
        if self._unwanted():
            raise RankLost("the resize was given up")
        work, arrived = self._under_way.popleft()
        work.wait()
        arrived()

    def _given(self, message: Message) -> _UnderWay:
        """Pack a message on the device, bring it to the host in one copy, and begin to send it."""
        packed = _memory(message, self._device(self._sources, message))
        for value, flat in _flats(message, packed):
            read(self._sources, value, flat)
        sent = packed.cpu()

        def count() -> None:
            self.sent_bytes += sent.nbytes

        return _UnderWay(self._gathering.send(sent, message.taker), count)

    def _taken(self, message: Message) -> _UnderWay:
        """Begin to receive a message; once it is there, put every range in its place."""
        device = self._device([self._target], message)
        received = _memory(message, torch.device("cpu"))

        def put() -> None:
            self.received_bytes += received.nbytes
            for value, flat in _flats(message, received.to(device)):
                self._target[value, flat.range.name].copy_from(flat)

        return _UnderWay(self._gathering.receive(received, message.giver), put)

    def _device(self, contents: Sequence[Contents], message: Message) -> torch.device:
        """Return the device of what a message has."""
        key = VALUES[message.state][0], message.ranges[0].name
        for each in contents:
            if key in each:
                return each[key].values.device
        raise RankLost(
            f"a message of a resize has {key[1]} ({message.state}), which this process does not "
            "hold; the driver and its ranks no longer agree on the plan"
        )


def _memory(message: Message, device: torch.device) -> Tensor:
    """Return memory for a message, which has float32 or, of narrow weights, bfloat16."""
    ranges = sum(each.elements for each in message.ranges)
    elements = ranges * len(VALUES[message.state])
    dtype = torch.bfloat16 if message.size == 2 * elements else torch.float32
    return torch.empty(elements, dtype=dtype, device=device)


def _flats(message: Message, packed: Tensor) -> Iterator[tuple[str, Flat]]:
    """Yield the place of every value of every range in a message."""
    start = 0
    for range_ in message.ranges:
        for value in VALUES[message.state]:
            stop = start + range_.elements
            yield value, Flat(range_, packed[start:stop])
            start = stop
