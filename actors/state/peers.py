"""The copies of one rank and those that it holds for another, and how they travel.

Copies live as long as the share of the rank, through any number of epochs. What travels between
ranks does so in the epoch's own group for copies, beside the steps.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from actors.commands import CopyReport, Recovery
from actors.epochs.lines import Line
from actors.state.copies import Copy, Slots
from actors.state.parcels import Sending, receive, wish, wished
from moe.checkpoint.buffers import Buffers
from moe.checkpoint.transfer import DirectTransfer
from moe.config.balance_state import BalanceState
from moe.errors import DeadlineExceeded, RankLost
from moe.planning.plan.seats import Seat, Seats


class Peers:
    """Takes copies of one rank, gives them to its holder, and holds those of another rank.

    ``memory`` returns memory that the device of the rank copies to. One thread takes copies and
    recovers, another exchanges copies, and any may ask or give up.
    """

    def __init__(self, seats: Seats, seat: Seat, memory: Callable[[], Buffers]) -> None:
        self._seats = seats
        self._seat = seat
        self._own = Slots(memory)
        self._held = Slots(lambda: Buffers(DirectTransfer()))
        self._changed = threading.Condition()
        self._group: dist.ProcessGroup | None = None
        self._joined = False
        self._epoch = 0
        self._travels: int | None = None

    @property
    def copies(self) -> frozenset[int]:
        """Steps of which this rank has a whole copy of its own."""
        with self._changed:
            return frozenset(copy.step for copy in self._own.copies)

    @property
    def holds(self) -> Mapping[Seat, frozenset[int]]:
        """Steps of which this rank has a whole copy of another, by the seat of that."""
        with self._changed:
            held = self._held.copies
        return {
            seat: frozenset(copy.step for copy in held if copy.seat == seat)
            for seat in sorted({copy.seat for copy in held})
        }

    def join(self, group: dist.ProcessGroup | None) -> None:
        """Take part in an epoch; no group where the rank is alone. Every rank must.

        The newest boundary that any rank knows to be whole is kept by all from now on: the sum
        that ended its exchange may have reached some ranks alone.
        """
        with self._changed:
            self._group, self._joined = group, True
            self._epoch += 1
        self.keep(self._agree(max(self._own.kept, self._held.kept), self._checking()))

    def leave(self) -> None:
        """Hold the group no more, and give up what travels; whole copies stay."""
        with self._changed:
            self._group, self._joined = None, False
            self._epoch += 1
            self._changed.notify_all()

    def abandon(self, seconds: float) -> bool:
        """Leave, wait until nothing travels any more, and tell whether that is so."""
        self.leave()
        with self._changed:
            return self._changed.wait_for(lambda: self._travels is None, seconds)

    def copy_of(self, seat: Seat, step: int) -> Copy:
        """Return a copy of this rank or one that it holds; RankLost where it has none."""
        with self._changed:
            found = (self._own if seat == self._seat else self._held).find(seat, step)
        if found is None:
            raise RankLost(
                f"rank {self._rank} has no whole copy of {seat} after {step} steps; recover a "
                "boundary that its status names, or restart from a checkpoint"
            )
        self._own.wait()
        return found

    def contents(
        self, step: int, like: Sequence[Tensor]
    ) -> tuple[list[Tensor], Mapping[int, BalanceState]]:
        """Return what this rank held after ``step`` steps, in the types of what it holds now."""
        copy = self.copy_of(self._seat, step)
        pairs = zip(copy.tensors, like, strict=True)
        return [tensor.view(now.dtype) for tensor, now in pairs], copy.balance

    def take(
        self,
        step: int,
        holdings: Sequence[Tensor],
        balance: Mapping[int, BalanceState],
        seconds: float,
    ) -> None:
        """Copy what this rank holds after ``step`` steps, unless it has that copy.

        A GPU may still be copying at the end: ``hold_back`` comes before the next update. Waits
        until the copies of the boundary before have travelled, DeadlineExceeded after ``seconds``.
        """
        with self._changed:
            self._await_idle(seconds, step)
            if self._own.find(self._seat, step) is not None:
                return
            slot = self._own.emptied()
        slot.fill(self._seat, step, holdings, balance)
        with self._changed:
            self._changed.notify_all()

    def hold_back(self) -> None:
        """Let what the device is given from now on run after its copies; the host goes on."""
        self._own.hold_back()

    @contextmanager
    def travelling(self, step: int) -> Iterator[None]:
        """Mark that the copies of a step travel: neither slots nor groups may change under them.

        RankLost where this rank has left its epoch.
        """
        with self._changed:
            self._check(self._epoch)
            self._travels = step
        try:
            yield
        finally:
            with self._changed:
                self._travels = None
                self._changed.notify_all()

    def exchange(self, step: int, holders: Mapping[Seat, Seat], seconds: float) -> CopyReport:
        """Give this rank's copy to its holder and take those that it holds; every rank must.

        ``holders`` says by seat who holds its copy; each holds one at most. Waits for the copy to
        be taken, DeadlineExceeded after ``seconds``. Returns once every rank has what it holds:
        the boundary is whole everywhere, and its copies are kept.
        """
        started = time.perf_counter()
        own = self._own_copy(step, seconds)
        check = self._checking()
        holder, ward = holders.get(self._seat), self._ward(holders)
        wanted = ward is not None and self._held.find(ward, step) is None
        told = None if ward is None else wish(self._line(ward), wanted)
        sending = None
        if holder is not None and wished(self._line(holder)):
            sending = Sending(self._line(holder), own)
        received = 0
        if ward is not None and wanted:
            received = self._receive(ward, ward, step, check)
        if sending is not None:
            sending.wait(check)
        if told is not None:
            told.wait()
        self._agree(step, check)
        with self._changed:
            self._own.keep(self._seat, step)
            if ward is not None:
                self._held.keep(ward, step)
        sent = own.bytes if sending is not None else 0
        return CopyReport(step, sent, received, time.perf_counter() - started)

    def deliver(self, recovery: Recovery, seconds: float, stand: Callable[[], None]) -> None:
        """Bring copies from their holders to the ranks that lost them; every rank must.

        Copies of later steps are dropped, and ``stand`` has the rank stand at the boundary: as soon
        as it has its copy, while those that it gives travel.
        """
        with self._changed:
            self._await_idle(seconds)
        step, check = recovery.step, self._checking()
        gives = recovery.gives
        wards = [lost for lost, holder in gives.items() if holder == self._seat]
        sent = [Sending(self._line(lost), self.copy_of(lost, step)) for lost in wards]
        if self._seat in gives:
            self._receive(self._seat, gives[self._seat], step, check)
        with self._changed:
            self._own.forget_after(step)
            self._held.forget_after(step)
        stand()
        for each in sent:
            each.wait(check)

    def keep(self, step: int) -> None:
        """Keep the copies of a boundary until a later one is whole everywhere.

        Where a copy of that boundary is kept already, it stays: a second one is of a seat whose
        copies went elsewhere meanwhile, or were on their way here.
        """
        with self._changed:
            for slots in (self._own, self._held):
                for copy in slots.copies:
                    if copy.step == step != slots.kept:
                        slots.keep(copy.seat, step)

    @property
    def _rank(self) -> int:
        return self._seats.rank(self._seat)

    def _own_copy(self, step: int, seconds: float) -> Copy:
        """Return this rank's copy, as soon as it is taken."""
        epoch = self._epoch
        with self._changed:
            taken = self._changed.wait_for(
                lambda: self._left(epoch) or self._own.find(self._seat, step), seconds
            )
        self._check(epoch)
        if not taken:
            raise DeadlineExceeded(
                f"rank {self._rank} took no copy after {step} steps within {seconds:g} s; have "
                "every rank take one before copies are exchanged"
            )
        return self.copy_of(self._seat, step)

    def _receive(self, seat: Seat, holder: Seat, step: int, check: Callable[[], None]) -> int:
        """Receive a copy, of this rank or of another, from whoever has it; return its bytes."""
        with self._changed:
            slot = (self._own if seat == self._seat else self._held).emptied()
        return receive(self._line(holder), seat, step, slot, check)

    def _ward(self, holders: Mapping[Seat, Seat]) -> Seat | None:
        """Return the seat whose copy this rank holds."""
        wards = [seat for seat, holder in holders.items() if holder == self._seat]
        if len(wards) > 1:
            raise RankLost(
                f"rank {self._rank} was to hold the copies of {len(wards)} ranks and has room for "
                "one; name each rank as holder once"
            )
        return wards[0] if wards else None

    def _line(self, seat: Seat) -> Line:
        if self._group is None:
            raise self._gone()
        return Line(self._group, self._seats.rank(seat))

    def _agree(self, number: int, check: Callable[[], None]) -> int:
        """Return the largest number of all ranks, once all have come here.

        ``check`` raises where this rank has left: it then has no group, as one that is alone.
        """
        with self._changed:
            check()
            group = self._group
        if group is None:
            return number
        largest = torch.tensor([number])
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=group)
        return int(largest.item())

    def _await_idle(self, seconds: float, but: int | None = None) -> None:
        """Wait until no copies travel, except those of one step, which wait to be taken."""
        if not self._changed.wait_for(lambda: self._travels in (None, but), seconds):
            raise DeadlineExceeded(
                f"rank {self._rank} still exchanges the copies of {self._travels} after "
                f"{seconds:g} s; take copies less often, or raise cluster.step_seconds"
            )

    def _checking(self) -> Callable[[], None]:
        """Return what raises RankLost once this rank has left the epoch of now."""
        return partial(self._check, self._epoch)

    def _check(self, epoch: int) -> None:
        if self._left(epoch):
            raise self._gone()

    def _left(self, epoch: int) -> bool:
        return self._epoch != epoch or not self._joined

    def _gone(self) -> RankLost:
        return RankLost(f"rank {self._rank} has left its epoch; copies that travelled are dropped")
