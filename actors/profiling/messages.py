"""How fast tensors pass between two ranks of this machine: one way of a link, while both are used.

Ranks 0 and 1, 2 and 3, ... each send to the other and receive at once, as the schedule does between
two stages, all pairs at the same time. It is gloo between processes here as between actors, nccl
between GPUs. The latency is the time of one number; the bandwidth is what a larger message takes
beyond that. Sums over a pair, as of the gradients of a tied embedding, are timed beside it to check
what the link tells of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch
import torch.distributed as dist
from torch import Tensor

from actors.profiling.measure import Clock, Measuring, together
from moe.planning.devices.links import ANY, Link

_ROUNDS = 20
_SUMS = 3
_MOST_FLOATS = 2**25


@dataclass(frozen=True, slots=True)
class Message:
    """Seconds of a tensor of so many bytes, each time it was sent; sent and received, or summed."""

    size: int
    seconds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Wire:
    """What one rank of a pair saw: one number, a micro-batch of hidden states, and sums."""

    least: Message
    hidden: Message
    summed: Message


def measure_wire(asked: Measuring, clock: Clock) -> Wire | None:
    """Time messages with the rank beside this one; None without one, as the last of an odd number.

    Every rank must take part.
    """
    pairs = [[rank, rank + 1] for rank in range(0, asked.ranks - 1, 2)]
    groups = [dist.new_group(pair) for pair in pairs]
    place, own = divmod(dist.get_rank(), 2)
    paired = place < len(pairs)
    peer = pairs[place][1 - own] if paired else None
    hidden = asked.config.hidden_size * asked.sequence_length * max(asked.micro_batches)
    summed = min(asked.config.hidden_size * asked.config.vocab_size, _MOST_FLOATS)

    def swapped(floats: int) -> Message:
        out, into = (torch.zeros(floats, device=clock.device.torch_device) for _ in range(2))
        seconds = together(clock.waited, lambda: _swap(out, into, peer), _ROUNDS)
        return Message(out.nbytes, tuple(seconds))

    def added(floats: int) -> Message:
        x = torch.zeros(floats, device=clock.device.torch_device)
        group = groups[place] if paired else None
        seconds = together(
            clock.waited,
            lambda: None if group is None else dist.all_reduce(x, group=group),
            _SUMS,
        )
        return Message(x.nbytes, tuple(seconds))

    wire = Wire(swapped(1), swapped(hidden), added(summed))
    return wire if paired else None


def link_of(wires: Sequence[Wire]) -> Link:
    """Return the link within a node that these ranks saw."""
    latency = median(each for wire in wires for each in wire.least.seconds)
    whole = median(each for wire in wires for each in wire.hidden.seconds)
    size = wires[0].hidden.size - wires[0].least.size
    beyond = max(whole - latency, size / FASTEST)
    return Link((ANY,), size / beyond, latency)


def sum_seconds(wires: Sequence[Wire]) -> tuple[int, float]:
    """Return the bytes of what was summed over two ranks, and the seconds it took."""
    seconds = median(each for wire in wires for each in wire.summed.seconds)
    return wires[0].summed.size, seconds


def _swap(out: Tensor, into: Tensor, peer: int | None) -> None:
    if peer is None:
        return
    ways = [dist.P2POp(dist.isend, out, peer), dist.P2POp(dist.irecv, into, peer)]
    for work in dist.batch_isend_irecv(ways):
        work.wait()


FASTEST = 1e13
"""Bytes a second that no link has: where a message takes no longer than one number."""
