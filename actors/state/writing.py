"""The thread that writes one rank's files of a checkpoint, and how it joins the spans of a gang."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from moe.checkpoint.manifest import OPTIMIZER
from moe.checkpoint.records import Piece, StoredTensor, WrittenFiles
from moe.checkpoint.shard_files import TYPES
from moe.checkpoint.streamed import streamed
from moe.checkpoint.writer import TensorSpec, in_order
from moe.config.model import ModelConfig
from moe.config.share import Share
from moe.config.tensors import TensorSlice, held_by
from moe.errors import RankLost, RaymoeError, StorageError
from moe.storage import Location, make_directory


@dataclass(frozen=True, slots=True)
class GivenTensor:
    """A weight that a rank contributes: its name on disk, the part held, and a copy of that."""

    name: str
    part: TensorSlice
    copy: Tensor

    @property
    def spec(self) -> TensorSpec:
        """The whole tensor, as it will be stored."""
        return TensorSpec(self.name, self.part.shape, self.copy.dtype)


class Snapshot(NamedTuple):
    """Copies of what one rank contributes to a checkpoint: weights, and pieces of moments."""

    given: Sequence[GivenTensor]
    pieces: Sequence[tuple[Piece, Tensor]]


class Spans:
    """Brings the spans of a weight together at the leader of the gang.

    Members send and the leader receives in the same order, so nothing but the order is agreed.
    """

    def __init__(
        self,
        config: ModelConfig,
        gang: Sequence[Share],
        member: int,
        group: dist.ProcessGroup | None,
    ) -> None:
        if group is None and len(gang) > 1:
            raise RankLost(
                f"a gang of {len(gang)} ranks has no process group to save with; join an epoch"
            )
        self.leader = member == 0
        self._group = group
        self._others = [
            {tensor.name: tensor for tensor in held_by(config, share)} for share in gang[1:]
        ]

    def send(self, given: GivenTensor) -> None:
        """Send a member's span to the leader."""
        assert self._group is not None
        self._group.send([given.copy], 0, 0).wait()

    def joined(self, given: GivenTensor) -> Tensor:
        """Return a whole tensor from the leader's span and those of the other members."""
        part = given.part
        if part.dim is None:
            return given.copy
        assert self._group is not None
        whole = torch.empty(part.shape, dtype=given.copy.dtype)
        _narrow(whole, part).copy_(given.copy)
        for member, held in enumerate(self._others, start=1):
            target = _narrow(whole, held[part.name])
            span = target if target.is_contiguous() else torch.empty_like(target).contiguous()
            self._group.recv([span], member, 0).wait()
            if span is not target:
                target.copy_(span)
        return whole


class Writing(threading.Thread):
    """Writes one rank's files; what it has written, or why not, is its result."""

    def __init__(
        self,
        directory: Location,
        file: str,
        snapshot: Snapshot,
        spans: Spans,
    ) -> None:
        super().__init__(name=f"writing {directory}", daemon=True)
        self.directory = directory
        self._file = file
        self._given, self._pieces = snapshot
        self._spans = spans
        self._unwanted = threading.Event()
        self._written: WrittenFiles | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Write, and keep what came of it."""
        try:
            self._written = WrittenFiles(tuple(self._weights()), tuple(self._moments()))
        except BaseException as error:
            self._error = error

    def give_up(self) -> None:
        """Let the thread end at the next tensor."""
        self._unwanted.set()

    def result(self, rank: int) -> WrittenFiles:
        """Return what was written; call it when the thread has ended."""
        if self._written is not None:
            return self._written
        error = self._error
        if isinstance(error, RaymoeError):
            raise error
        if isinstance(error, OSError):
            raise StorageError(
                f"rank {rank} could not write {self.directory}: {error}; every rank must reach the "
                "same files with room on the disk"
            ) from error
        raise RankLost(f"rank {rank} failed while it wrote {self.directory}: {error}") from error

    def _weights(self) -> Iterator[StoredTensor]:
        """Send the spans that the leader joins, then write the rest."""
        given = {each.name: each for each in self._given}
        specs = in_order(each.spec for each in self._given)
        sent = [spec for spec in specs if self._is_sent(given[spec.name])]
        for spec in sent:
            self._check_wanted()
            self._spans.send(given[spec.name])
        specs = [spec for spec in specs if not self._is_sent(given[spec.name])]
        if not specs:
            return
        file = f"model-{self._file}"
        with streamed(self.directory / file, specs) as writer:
            for spec in specs:
                self._check_wanted()
                digest = writer.write(spec.name, self._spans.joined(given[spec.name]))
                yield StoredTensor(spec.name, file, spec.shape, TYPES[spec.dtype], digest)

    def _moments(self) -> Iterator[Piece]:
        if not self._pieces:
            return
        make_directory(self.directory / OPTIMIZER)
        given = {piece.key: (piece, value) for piece, value in self._pieces}
        specs = in_order(
            TensorSpec(key, tuple(value.shape), value.dtype) for key, (_, value) in given.items()
        )
        with streamed(self.directory / OPTIMIZER / self._file, specs) as writer:
            for spec in specs:
                self._check_wanted()
                piece, value = given[spec.name]
                yield replace(piece, sha256=writer.write(spec.name, value))

    def _is_sent(self, given: GivenTensor) -> bool:
        return given.part.dim is not None and not self._spans.leader

    def _check_wanted(self) -> None:
        if self._unwanted.is_set():
            raise RankLost(f"writing {self.directory} was given up")


def _narrow(whole: Tensor, part: TensorSlice) -> Tensor:
    assert part.dim is not None
    return whole.narrow(part.dim, part.start, part.stop - part.start)
