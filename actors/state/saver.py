"""A rank's tensors to checkpoints, while training continues.

``take`` copies what the rank contributes to a checkpoint; that is all that training waits for.
``write`` writes the copies and runs beside training, in a thread of its caller.
"""

import threading
from collections.abc import Iterable, Mapping

import torch.distributed as dist
from torch import Tensor

from actors.faults.points import POINTS
from actors.state.snapshots import Snapshot, Snapshots
from actors.state.writing import Frozen, Spans, Writing
from moe.checkpoint.buffers import Buffers
from moe.checkpoint.records import OwnedState, WrittenFiles
from moe.checkpoint.spread import writers
from moe.config.balance_state import BalanceState
from moe.config.model import ModelConfig
from moe.config.tensors import answers_for, held_by, saved
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat
from moe.storage import Location

_NO_BALANCE: Mapping[int, BalanceState] = {}


class RankSaver:
    """Takes and writes what one rank contributes to checkpoints, one checkpoint at a time.

    Lives as long as its process groups: after an epoch it is replaced, and may hand over its
    ``buffers``. ``files`` is the gang's own group for saving, None where the gang is one rank.
    ``frozen`` is the model that frozen tensors are copied from, if the run has any.
    """

    def __init__(
        self,
        config: ModelConfig,
        plan: Plan,
        seat: Seat,
        files: dist.ProcessGroup | None,
        buffers: Buffers,
        frozen: Location | None = None,
    ) -> None:
        seats = plan.seats
        gang = [plan.share(mate) for mate in seats.gang_of(seat)]
        self.buffers = buffers
        self._config = config
        self._share = gang[seat.member]
        self._rank = seats.rank(seat)
        self._spans = Spans(config, gang, seat.member, files)
        self._snapshots = Snapshots(self._rank)
        self._unwanted = threading.Event()
        writer_of = writers(config, gang, plan.replicas)
        kept = {part.name for part in saved(config)}
        given = [
            part
            for part in held_by(config, self._share)
            if answers_for(config, self._share, part)
            and writer_of[part.name] == seat.replica
            and part.name in kept
        ]
        self._given = [part for part in given if not part.role.frozen]
        unchanged = [part for part in given if part.role.frozen and not self._spans.sends(part)]
        self._frozen = Frozen(frozen, unchanged)

    @property
    def unfinished(self) -> int | None:
        """Step of what was taken, or is waited for, and has not been written."""
        return self._snapshots.unfinished

    def prepare(self, weights: Mapping[str, Tensor], states: Iterable[OwnedState]) -> None:
        """Make the memory of the snapshots ready, on a CPU in the background, so that the first
        stalls no longer than others. To be called between two steps.
        """
        self.buffers.prepare(self._snapshot(0, weights, states, _NO_BALANCE).tensors)

    def take(
        self,
        step: int,
        weights: Mapping[str, Tensor],
        states: Iterable[OwnedState],
        balance: Mapping[int, BalanceState],
        seconds: float,
    ) -> None:
        """Copy weights and moments after a step; every rank of the run must, after the same.

        A GPU may still be copying at the end: ``buffers.hold_back`` comes before the next update.
        Waits for an earlier checkpoint to be written, DeadlineExceeded after ``seconds``.
        """
        snapshot = self._snapshot(step, weights, states, balance)
        self._snapshots.put(step, lambda: self._copied(snapshot), seconds)

    def write(self, directory: Location, step: int, seconds: float) -> WrittenFiles:
        """Write the snapshot of a step, beside whatever else this rank does; wait for it first.

        Every rank of the run must. Both waits, for the snapshot and for storage, end with
        DeadlineExceeded after ``seconds``.
        """
        with self._snapshots.taken(step, seconds) as snapshot:
            family, unwanted = self._config.family, self._unwanted
            writing = Writing(self._rank, family, self._spans, directory, seconds, unwanted)
            self.buffers.wait()
            return writing.write(snapshot, self._frozen)

    def abandon(self, seconds: float) -> None:
        """Give up what is unfinished, as when the epoch ends; writing stops at the next tensor.

        A write that waits for a neighbour ends when its process group is closed. One that has not
        ended after ``seconds`` keeps the buffers, and others take their place.
        """
        self._unwanted.set()
        self._spans.leave()
        if not self._snapshots.close(seconds):
            self.buffers = self.buffers.replaced()

    def _copied(self, snapshot: Snapshot) -> Snapshot:
        copies = snapshot.copied(self.buffers)
        POINTS.reach("snapshot", snapshot.step)
        return copies

    def _snapshot(
        self,
        step: int,
        weights: Mapping[str, Tensor],
        states: Iterable[OwnedState],
        balance: Mapping[int, BalanceState],
    ) -> Snapshot:
        """Return what this rank contributes: views, which the next step changes."""
        owned = (
            state
            for state in states
            if state.range.elements and answers_for(self._config, self._share, state.range.part)
        )
        given = ((part, weights[part.name]) for part in self._given)
        return Snapshot(step, tuple(given), tuple(owned), balance)
