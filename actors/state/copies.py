"""Copies of what one rank alone holds, as of a step boundary, and the slots that they lie in.

A boundary is the moment between two steps, named by the number of steps done. The copies of a
boundary are *whole* once every rank has its own and every holder has that of another. Until the
next boundary is whole, the copies of the last one must stay. So there are two slots, and the copy
of the newest boundary known to be whole is *kept*: a new copy goes to the other slot.

    kept   other
     4      -      copies of 4 are whole everywhere
     4      6      copies of 6 are under way; if they fail, 8 takes the place of 6
     6      4      copies of 6 are whole everywhere; 8 will take the place of 4
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moe.checkpoint.buffers import Buffers
from moe.config.balance_state import BalanceState
from moe.planning.plan.seats import Seat


@dataclass(frozen=True, slots=True)
class Copy:
    """What the rank on a seat alone held after ``step`` steps, in memory of the host. A value.

    ``tensors`` are its holdings (``RankTrainer.holdings``) as bytes, ``balance`` the state of each
    balanced layer. Under one plan both fit any rank on the same seat.
    """

    seat: Seat
    step: int
    tensors: tuple[Tensor, ...]
    balance: Mapping[int, BalanceState]

    @property
    def bytes(self) -> int:
        """Size of the tensors in bytes."""
        return sum(tensor.nbytes for tensor in self.tensors)


class Slot:
    """Memory for one copy, used again and again; ``copy`` is None while it is not whole."""

    def __init__(self, memory: Buffers) -> None:
        self.memory = memory
        self.copy: Copy | None = None

    @property
    def step(self) -> int:
        """Step of the copy; -1 where there is none."""
        return -1 if self.copy is None else self.copy.step

    def fill(
        self, seat: Seat, step: int, holdings: Sequence[Tensor], balance: Mapping[int, BalanceState]
    ) -> None:
        """Copy what a rank holds; a GPU may still be copying at the end."""
        copies = self.memory.copied(holdings)
        tensors = tuple(copy.view(-1).view(torch.uint8) for copy in copies)
        self.copy = Copy(seat, step, tensors, dict(balance))


class Slots:
    """Two slots, one of which may be kept."""

    def __init__(self, memory: Callable[[], Buffers]) -> None:
        self._slots = (Slot(memory()), Slot(memory()))
        self._kept: Slot | None = None

    @property
    def copies(self) -> list[Copy]:
        """The copies that are whole."""
        return [copy for copy in (slot.copy for slot in self._slots) if copy is not None]

    @property
    def kept(self) -> int:
        """Step of the copy that is kept; -1 where none is."""
        return -1 if self._kept is None else self._kept.step

    def find(self, seat: Seat, step: int) -> Copy | None:
        """Return the copy of a seat after so many steps, if it is here."""
        slot = self._find(seat, step)
        return None if slot is None else slot.copy

    def emptied(self) -> Slot:
        """Return the slot that the next copy goes to: empty, or the older of those not kept."""
        slot = min((each for each in self._slots if each is not self._kept), key=_step)
        slot.copy = None
        return slot

    def keep(self, seat: Seat, step: int) -> None:
        """Keep the copy of a seat after so many steps in place of the one kept before, if it is
        here.
        """
        self._kept = self._find(seat, step) or self._kept

    def forget_after(self, step: int) -> None:
        """Drop copies of later steps, which will be done again."""
        for slot in self._slots:
            if slot.step > step:
                slot.copy = None
        if self._kept is not None and self._kept.copy is None:
            self._kept = None

    def hold_back(self) -> None:
        """Let what the device is given from now on run after the copies under way."""
        for slot in self._slots:
            slot.memory.hold_back()

    def wait(self) -> None:
        """Wait until the copies under way are made."""
        for slot in self._slots:
            slot.memory.wait()

    def _find(self, seat: Seat, step: int) -> Slot | None:
        for slot in self._slots:
            if slot.copy is not None and (slot.copy.seat, slot.copy.step) == (seat, step):
                return slot
        return None


def _step(slot: Slot) -> int:
    return slot.step
