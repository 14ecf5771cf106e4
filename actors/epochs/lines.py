"""One-way connections between the stages of a replica, each with a process group of its own.

NCCL works through the messages of a communicator in the order in which they were asked for, and it
knows no tags. A receive that was asked for first therefore stands before a send to the same rank.
Where each sender has a communicator for each receiver, nothing stands before a message but earlier
messages of the same sender, which the receiver needs earlier.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch.distributed as dist
from torch import Tensor

DOWN = "down"
"""The way of hidden states, from a chunk to the next."""
UP = "up"
"""The way of gradients, from a chunk to the one before; only training has any."""


class Route(NamedTuple):
    """Messages of one way from one stage to another."""

    way: str
    sender: int
    receiver: int


@dataclass(frozen=True, slots=True)
class Line:
    """One end of a route: a process group of two, and the rank of the other end in it."""

    group: dist.ProcessGroup
    other: int

    def send(self, tensor: Tensor, tag: int = 0) -> dist.Work:
        """Begin to send a contiguous tensor, which must not change until the work is done."""
        return self.group.send([tensor], self.other, tag)

    def receive(self, tensor: Tensor, tag: int = 0) -> dist.Work:
        """Begin to receive into a contiguous tensor."""
        return self.group.recv([tensor], self.other, tag)


def routes_of(homes: Sequence[int], ways: Collection[str] = (DOWN, UP)) -> tuple[Route, ...]:
    """Return the routes of some ways between stages, in the order in which ranks open them.

    ``homes`` is the stage of every chunk. To open a route takes both its ranks at once, so all must
    keep to one order; stages with even numbers come first, so that many routes open side by side.
    """
    hops = {(one, other) for one, other in pairwise(homes) if one != other}
    every = {Route(DOWN, one, other) for one, other in hops}
    every |= {Route(UP, other, one) for one, other in hops}
    routes = (route for route in every if route.way in ways)
    return tuple(sorted(routes, key=lambda route: (route.sender % 2, route)))
