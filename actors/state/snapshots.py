"""A snapshot of one rank, and the slot in which it waits for whoever wants it.

Training only waits until a snapshot is copied. Whoever writes it, or sends it to another rank,
takes it from the slot while training goes on, and gives the slot back when it is done: the memory
of the copies is then free for the next snapshot.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum

from torch import Tensor

from moe.checkpoint.buffers import Buffers
from moe.checkpoint.records import OwnedState
from moe.config.balance_state import BalanceState
from moe.config.tensors import TensorSlice
from moe.errors import DeadlineExceeded, RankLost


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Some tensors of one rank after ``step`` steps, and what they are. A value: it knows no file.

    ``weights`` are parts of weights, ``states`` the moments of ranges that the rank owns,
    ``balance`` the state of each layer with experts that it holds.
    """

    step: int
    weights: tuple[tuple[TensorSlice, Tensor], ...]
    states: tuple[OwnedState, ...]
    balance: Mapping[int, BalanceState]

    @property
    def tensors(self) -> list[Tensor]:
        """All its tensors: the weights, then every moment of every range."""
        moments = [value for state in self.states for value in state.moments.values()]
        return [tensor for _, tensor in self.weights] + moments

    def copied(self, buffers: Buffers) -> "Snapshot":
        """Return the same snapshot in the memory of ``buffers``; it holds until their next use."""
        copies = iter(buffers.copied(self.tensors))
        return replace(
            self,
            weights=tuple((part, next(copies)) for part, _ in self.weights),
            states=tuple(
                OwnedState(state.range, {moment: next(copies) for moment in state.moments})
                for state in self.states
            ),
            balance=dict(self.balance),
        )


class Phase(Enum):
    """What a slot of snapshots is doing.

    EMPTY -> FILLING -> FULL -> TAKEN -> EMPTY. A slot that is closed drops a snapshot that is FULL;
    FILLING and TAKEN end as EMPTY when their user is done.
    """

    EMPTY = "empty"
    FILLING = "a snapshot is being copied"
    FULL = "a snapshot waits to be taken"
    TAKEN = "a snapshot is in use"


class Snapshots:
    """A slot for one snapshot of a rank: ``put`` fills it, ``taken`` lends and then empties it.

    ``close`` ends its life: what waits then, or comes later, raises RankLost.
    """

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._changed = threading.Condition()
        self._phase = Phase.EMPTY
        self._closed = False
        self._snapshot: Snapshot | None = None
        self._step = 0
        self._wanted: int | None = None

    @property
    def phase(self) -> Phase:
        """What the slot is doing now."""
        return self._phase

    @property
    def unfinished(self) -> int | None:
        """Step of the snapshot in the slot, else of one that is waited for; None once closed."""
        with self._changed:
            if self._closed:
                return None
            return self._wanted if self._phase is Phase.EMPTY else self._step

    def put(self, step: int, copy: Callable[[], Snapshot], seconds: float) -> None:
        """Fill the slot with the snapshot of a step; wait until the one before is done with.

        ``copy`` is called once the slot is empty. Raises DeadlineExceeded after ``seconds``.
        """
        with self._changed:
            if not self._await(Phase.EMPTY, seconds):
                raise DeadlineExceeded(
                    f"rank {self._rank} has not written the checkpoint before within "
                    f"{seconds:g} s; raise cluster.step_seconds, checkpoint.every, or the speed of "
                    "its storage"
                )
            self._move(Phase.FILLING)
            self._step = step
        try:
            snapshot = copy()
        except BaseException:
            self._empty()
            raise
        with self._changed:
            self._snapshot = None if self._closed else snapshot
            self._move(Phase.EMPTY if self._closed else Phase.FULL)
            self._check_open()

    @contextmanager
    def taken(self, step: int, seconds: float) -> Iterator[Snapshot]:
        """Lend the snapshot of a step, which may be put after it is asked for; then empty the slot.

        Raises DeadlineExceeded after ``seconds``, RankLost where another step's is there.
        """
        snapshot = self._take(step, seconds)
        try:
            yield snapshot
        finally:
            self._empty()

    def close(self, seconds: float) -> bool:
        """Let nothing more in or out; wait until nobody uses a snapshot, and tell whether so."""
        with self._changed:
            self._closed, self._snapshot = True, None
            self._move(Phase.EMPTY if self._phase is Phase.FULL else self._phase)
            return self._changed.wait_for(lambda: self._phase is Phase.EMPTY, seconds)

    def _take(self, step: int, seconds: float) -> Snapshot:
        with self._changed:
            self._wanted = step
            try:
                there = self._await(Phase.FULL, seconds)
            finally:
                self._wanted = None
            if not there:
                raise DeadlineExceeded(
                    f"rank {self._rank} took no snapshot after step {step} within {seconds:g} s; "
                    "the driver has all ranks take one before they write it"
                )
            if self._step != step:
                raise RankLost(
                    f"rank {self._rank} took a snapshot after step {self._step}, that of {step} "
                    "was to be written; the driver and the rank no longer agree"
                )
            snapshot, self._snapshot = self._snapshot, None
            assert snapshot is not None
            self._move(Phase.TAKEN)
            return snapshot

    def _await(self, phase: Phase, seconds: float) -> bool:
        """Wait for a phase; RankLost if the slot is closed first."""
        reached = self._changed.wait_for(lambda: self._closed or self._phase is phase, seconds)
        self._check_open()
        return reached

    def _check_open(self) -> None:
        if self._closed:
            raise RankLost(f"rank {self._rank} has left its epoch and gave up its snapshots")

    def _empty(self) -> None:
        with self._changed:
            self._move(Phase.EMPTY)

    def _move(self, phase: Phase) -> None:
        self._phase = phase
        self._changed.notify_all()
