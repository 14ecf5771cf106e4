"""A rank's tensors to and from a checkpoint, while training goes on.

``start`` copies what the rank contributes into buffers of its own; that is all that training waits
for. The rest is ``actors.writing``. Optimiser moments are written by their owner as they lie in
memory, and any plan reads them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor

from actors.optimizer import ShareOptimizer
from actors.writing import GivenTensor, Spans, Writing
from moe.checkpoint.buffers import Buffers
from moe.checkpoint.manifest import OPTIMIZER, Manifest
from moe.checkpoint.moments import Moments
from moe.checkpoint.names import disk_name
from moe.checkpoint.records import MOMENTS, OwnedState, Piece, WrittenFiles
from moe.checkpoint.shard_files import TYPES
from moe.checkpoint.spread import writers
from moe.config.balance_state import BalanceState
from moe.config.model import ModelConfig
from moe.config.share import Share
from moe.config.tensors import TensorSlice, answers_for, held_by
from moe.errors import DeadlineExceeded, StorageError
from moe.storage import Place

SavedRank = tuple[WrittenFiles, dict[int, BalanceState]]
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
        self._writing: Writing | None = None
        replica_of = writers(config, gang, place.replicas)
        self._held = {tensor.name: tensor for tensor in held_by(config, self._share)}
        self._given = [
            tensor
            for tensor in self._held.values()
            if self._answers(tensor) and replica_of[tensor.name] == place.replica
        ]

    @property
    def unfinished(self) -> bool:
        """Whether a save was started and nobody has called ``finish`` for it."""
        return self._writing is not None

    @property
    def busy(self) -> bool:
        """Whether something is still being written; ``finish`` does not wait once it is not."""
        return self._writing is not None and self._writing.is_alive()

    def prepare(self, weights: Mapping[str, Tensor], states: Iterable[OwnedState]) -> None:
        """Make the memory of the snapshots ready in the background, so that the first stalls no
        longer than others.
        """
        self.buffers.prepare([*self._taken(weights), *(own for _, own in self._owned(states))])

    def start(
        self, directory: Place, weights: Mapping[str, Tensor], states: Iterable[OwnedState]
    ) -> None:
        """Copy weights and moments, and begin to write them; every rank of the run must.

        One checkpoint at a time: while one is unfinished StorageError refuses the next.
        """
        if self._writing is not None:
            raise StorageError(
                f"{self._writing.directory} is still being written; finish it before {directory}"
            )
        owned = self._owned(states)
        copies = iter(self.buffers.copied([*self._taken(weights), *(own for _, own in owned)]))
        self._writing = Writing(
            directory,
            self._place.file,
            [GivenTensor(self._disk(tensor), tensor, next(copies)) for tensor in self._given],
            [(piece, next(copies)) for piece, _ in owned],
            self._spans,
        )
        self._writing.start()

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
        return writing.result(self._place.rank)

    def save(
        self,
        directory: Place,
        weights: Mapping[str, Tensor],
        states: Iterable[OwnedState],
        seconds: float,
    ) -> WrittenFiles:
        """Start and finish."""
        self.start(directory, weights, states)
        return self.finish(seconds)

    def abandon(self, seconds: float) -> None:
        """Give up an unfinished save, as when the epoch ends; its thread stops at the next tensor.

        A thread that waits for a neighbour ends when its process group is destroyed.
        """
        writing, self._writing = self._writing, None
        if writing is None:
            return
        writing.give_up()
        writing.join(seconds)
        if writing.is_alive():
            self.buffers = Buffers()

    def _taken(self, weights: Mapping[str, Tensor]) -> list[Tensor]:
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


def restore_optimizer(
    directory: Place,
    config: ModelConfig,
    share: Share,
    optimizer: ShareOptimizer,
    manifest: Manifest,
) -> None:
    """Read the moments a rank owns from a training checkpoint, written under whatever plan."""
    moments = Moments.open(directory, manifest)
    held = {tensor.name: tensor for tensor in held_by(config, share)}
    for name, start, stop in [(own.name, own.start, own.stop) for own in optimizer.states()]:
        values = {moment: moments.read_range(held[name], moment, start, stop) for moment in MOMENTS}
        optimizer.restore(name, start, stop, values, manifest.step)
