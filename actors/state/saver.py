"""A rank's tensors to and from a checkpoint, while training goes on.

``take`` copies what the rank contributes into buffers of its own; that is all that training waits
for. The rest is ``actors.state.writing``. Optimiser moments are written by their owner as they lie
in memory, and any plan reads them.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor

from actors.state.writing import GivenTensor, Snapshot, Spans, Writing
from moe.checkpoint.buffers import Buffers
from moe.checkpoint.manifest import OPTIMIZER
from moe.checkpoint.names import disk_name
from moe.checkpoint.records import OwnedState, Piece, WrittenFiles
from moe.checkpoint.shard_files import TYPES
from moe.checkpoint.spread import writers
from moe.config.balance_state import BalanceState
from moe.config.model import ModelConfig
from moe.config.share import Share
from moe.config.tensors import TensorSlice, answers_for, held_by
from moe.errors import DeadlineExceeded, RankLost, StorageError
from moe.storage import Location

Balances = dict[int, BalanceState]
"""How the experts of each layer held are balanced."""

SavedRank = tuple[WrittenFiles, Balances]
"""What one rank adds to a checkpoint: its files, and the balance of the layers it holds."""


@dataclass(frozen=True, slots=True)
class RankPlace:
    """Where a saving rank stands: its member of the gang, its replica, its number in the run."""

    member: int
    replica: int
    replicas: int
    rank: int

    @property
    def file(self) -> str:
        """Name of the files it writes."""
        return f"rank-{self.rank:05d}.safetensors"


class ShareSaver:
    """Writes what one rank contributes to checkpoints, one checkpoint at a time.

    Alive as long as its process groups: after an epoch it is replaced, and may hand over its
    ``buffers``. ``files`` is the gang's own group for saving, None where the gang is one rank.
    """

    def __init__(
        self,
        config: ModelConfig,
        gang: Sequence[Share],
        place: RankPlace,
        files: dist.ProcessGroup | None,
        buffers: Buffers | None = None,
    ) -> None:
        self.buffers = buffers or Buffers()
        self._config = config
        self._gang = gang
        self._share = gang[place.member]
        self._place = place
        self._spans = Spans(config, gang, place.member, files)
        self._taken: Snapshot | None = None
        self._writing: Writing | None = None
        self._idle = threading.Event()
        self._idle.set()
        self._ready = threading.Event()
        self._balance: Balances = {}
        self._step = 0
        self._asked: int | None = None
        replica_of = writers(config, gang, place.replicas)
        self._held = {tensor.name: tensor for tensor in held_by(config, self._share)}
        self._given = [
            tensor
            for tensor in self._held.values()
            if self._answers(tensor) and replica_of[tensor.name] == place.replica
        ]

    @property
    def unfinished(self) -> int | None:
        """Step of what was taken, or asked for, and has not been written and collected."""
        return self._asked if self._idle.is_set() else self._step

    @property
    def busy(self) -> bool:
        """Whether something is still being written; ``finish`` does not wait once it is not."""
        return self._writing is not None and self._writing.is_alive()

    def prepare(self, weights: Mapping[str, Tensor], states: Iterable[OwnedState]) -> None:
        """Make the memory of the snapshots ready in the background, so that the first stalls no
        longer than others.
        """
        self.buffers.prepare([*self._weights(weights), *(own for _, own in self._owned(states))])

    def take(
        self,
        weights: Mapping[str, Tensor],
        states: Iterable[OwnedState],
        seconds: float,
        balance: Balances | None = None,
        step: int = 0,
    ) -> None:
        """Copy weights and moments; every rank of the run must, after the same ``step``.

        ``balance`` of the layers held is kept for who starts to write.

        One checkpoint at a time: waits until an earlier one has been written and collected.
        """
        if not self._idle.wait(seconds):
            raise DeadlineExceeded(
                f"rank {self._place.rank} has not written the checkpoint before within "
                f"{seconds:g} s; raise cluster.step_seconds, checkpoint.every, or the speed of its "
                "storage"
            )
        self._step = step
        self._idle.clear()
        owned = self._owned(states)
        copies = iter(self.buffers.copied([*self._weights(weights), *(own for _, own in owned)]))
        self._taken = Snapshot(
            [GivenTensor(self._disk(tensor), tensor, next(copies)) for tensor in self._given],
            [(piece, next(copies)) for piece, _ in owned],
        )
        self._balance = dict(balance or {})
        self._ready.set()

    def start(self, directory: Location, seconds: float = 0.0, step: int = 0) -> Balances:
        """Begin to write what was taken after ``step``, and return its balance.

        Every rank of the run must. Whoever asks need not be who has it taken: waits for that.
        """
        self._asked = step
        try:
            there = self._ready.wait(seconds)
        finally:
            self._asked = None
        if not there:
            raise DeadlineExceeded(
                f"rank {self._place.rank} took no snapshot for {directory} within {seconds:g} s; "
                "every driver has its ranks take one after the same step"
            )
        self._ready.clear()
        taken, self._taken = self._taken, None
        if taken is None:
            raise RankLost(f"writing {directory} was given up")
        if self._step != step:
            raise RankLost(
                f"rank {self._place.rank} took a snapshot after step {self._step}, that of {step} "
                f"was to be written to {directory}; the drivers no longer agree"
            )
        self._writing = Writing(directory, self._place.file, taken, self._spans)
        self._writing.start()
        return self._balance

    def finish(self, seconds: float) -> WrittenFiles:
        """Wait until everything is safe in its storage; raise what went wrong.

        DeadlineExceeded leaves the save unfinished, so that it may be waited for again.
        """
        writing = self._writing
        if writing is None:
            raise StorageError("no checkpoint was started; start one before it is finished")
        writing.join(seconds)
        if writing.is_alive():
            raise DeadlineExceeded(
                f"rank {self._place.rank} did not write {writing.directory} in {seconds:g} s; give "
                "saving more time, or faster storage"
            )
        self._writing = None
        self._idle.set()
        return writing.result(self._place.rank)

    def save(
        self,
        directory: Location,
        weights: Mapping[str, Tensor],
        states: Iterable[OwnedState],
        seconds: float,
    ) -> WrittenFiles:
        """Take, start and finish."""
        self.take(weights, states, seconds)
        self.start(directory)
        return self.finish(seconds)

    def abandon(self, seconds: float) -> None:
        """Give up an unfinished save, as when the epoch ends; its thread stops at the next tensor.

        A thread that waits for a neighbour ends when its process group is destroyed.
        """
        writing, self._writing = self._writing, None
        self._taken = None
        self._idle.set()
        self._ready.set()
        if writing is None:
            return
        writing.give_up()
        writing.join(seconds)
        if writing.is_alive():
            self.buffers = Buffers()

    def _weights(self, weights: Mapping[str, Tensor]) -> list[Tensor]:
        return [weights[tensor.name] for tensor in self._given]

    def _owned(self, states: Iterable[OwnedState]) -> list[tuple[Piece, Tensor]]:
        """Return the pieces this rank writes: what it owns and no other member answers for."""
        return [
            (self._piece(state, moment, value), value)
            for state in states
            if state.start < state.stop and self._answers(self._held[state.name])
            for moment, value in state.moments.items()
        ]

    def _answers(self, tensor: TensorSlice) -> bool:
        return answers_for(self._config, self._share, tensor)

    def _disk(self, tensor: TensorSlice) -> str:
        return disk_name(self._config.family, tensor.name)

    def _piece(self, state: OwnedState, moment: str, value: Tensor) -> Piece:
        """Return what the manifest will say of a moment, but for its hash."""
        part = self._held[state.name]
        return Piece(
            name=self._disk(part),
            moment=moment,
            file=f"{OPTIMIZER}/{self._place.file}",
            shape=part.shape,
            dim=part.dim,
            first=part.start,
            last=part.stop,
            start=state.start,
            stop=state.stop,
            dtype=TYPES[value.dtype],
            sha256="",
        )
