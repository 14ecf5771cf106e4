"""A copy on its way from one rank to another: a header, then its tensors in pieces.

A header tells steps and sizes, so that the receiver needs to know nothing of the sender's share.
The memory of the copy is sent and received as it lies; nothing is packed.
"""

import pickle
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from actors.epochs.lines import Line
from actors.state.copies import Copy, Slot
from moe.config.balance_state import BalanceState
from moe.errors import RankLost
from moe.planning.plan.seats import Seat

PIECE_BYTES = 2**24
"""The most that one message carries: between two, a rank looks whether it is to give up."""

AHEAD = 2
"""Pieces that are asked for before the one that is waited for has come: the line is never idle."""

_WISH, _HEADER, _CONTENT = range(3)
"""Tags of messages: whether a copy is wanted, what it is, what is in it."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a parcel is: whose copy, after how many steps, the bytes of its tensors."""

    seat: Seat
    step: int
    sizes: tuple[int, ...]
    balance: Mapping[int, BalanceState]


class Sending:
    """A copy that is being sent; all its messages are under way at once."""

    def __init__(self, line: Line, copy: Copy) -> None:
        sizes = tuple(tensor.nbytes for tensor in copy.tensors)
        raw = pickle.dumps(Header(copy.seat, copy.step, sizes, copy.balance))
        header = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
        self._messages = [torch.tensor([len(raw)]), header]
        self._works = [line.send(message, _HEADER) for message in self._messages]
        self._works += [line.send(piece, _CONTENT) for piece in _pieces(copy.tensors)]

    def wait(self, check: Callable[[], None]) -> None:
        """Wait until everything is sent; ``check`` raises where that is to be given up."""
        while self._works:
            check()
            self._works.pop(0).wait()


def wish(line: Line, wanted: bool) -> dist.Work:
    """Begin to tell the owner of a copy whether this rank wants it."""
    return line.send(torch.tensor([int(wanted)]), _WISH)


def wished(line: Line) -> bool:
    """Return whether the holder of a copy wants it; wait for what it says."""
    answer = torch.zeros(1, dtype=torch.int64)
    line.receive(answer, _WISH).wait()
    return bool(answer.item())


def receive(line: Line, seat: Seat, step: int, slot: Slot, check: Callable[[], None]) -> int:
    """Fill a slot with the copy of a seat after so many steps; return its bytes.

    Raises RankLost where another copy comes.
    """
    header = _header(line)
    if (header.seat, header.step) != (seat, step):
        raise RankLost(
            f"the copy of {seat} after {step} steps was to come, that of {header.seat} after "
            f"{header.step} steps came; the ranks no longer agree"
        )
    tensors = slot.memory.lent(header.sizes)
    coming: deque[dist.Work] = deque()
    for piece in _pieces(tensors):
        check()
        coming.append(line.receive(piece, _CONTENT))
        if len(coming) > AHEAD:
            coming.popleft().wait()
    for work in coming:
        work.wait()
    slot.copy = Copy(seat, step, tuple(tensors), header.balance)
    return slot.copy.bytes


def _header(line: Line) -> Header:
    length = torch.zeros(1, dtype=torch.int64)
    line.receive(length, _HEADER).wait()
    raw = torch.zeros(int(length.item()), dtype=torch.uint8)
    line.receive(raw, _HEADER).wait()
    header: Header = pickle.loads(raw.numpy().tobytes())
    return header


def _pieces(tensors: Sequence[Tensor]) -> Iterator[Tensor]:
    for tensor in tensors:
        if tensor.nbytes:
            yield from torch.split(tensor, PIECE_BYTES)
