"""One rank's files of a checkpoint, and how the spans of a gang become whole weights."""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from actors.faults.points import POINTS
from actors.state.snapshots import Snapshot
from moe.checkpoint.manifest import OPTIMIZER
from moe.checkpoint.names import disk_name
from moe.checkpoint.overlaps import narrowed
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.records import Piece, StoredTensor, WrittenFiles, piece_of
from moe.checkpoint.shard_files import TYPES
from moe.checkpoint.streamed import streamed
from moe.checkpoint.weight_files import FACTORS
from moe.checkpoint.writer import TensorSpec, in_order
from moe.config.model import ModelConfig
from moe.config.share import Share
from moe.config.tensors import TensorSlice, held_by
from moe.errors import DeadlineExceeded, RankLost, RaymoeError, StorageError
from moe.nn.product import in_use
from moe.storage import Location, make_directory


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
        self._leads = member == 0
        self._group = group
        self._others = [
            {tensor.name: tensor for tensor in held_by(config, share)} for share in gang[1:]
        ]

    def sends(self, part: TensorSlice) -> bool:
        """Tell whether this rank sends a part to the leader instead of writing the weight."""
        return part.dim is not None and not self._leads

    def send(self, span: Tensor) -> None:
        """Send a member's span to the leader."""
        self._joined_group().send([span], 0, 0).wait()

    def whole(self, part: TensorSlice, span: Tensor) -> Tensor:
        """Return a whole tensor from the leader's span and those of the other members."""
        if part.dim is None:
            return span
        whole = torch.empty(part.shape, dtype=span.dtype)
        narrowed(whole, part).copy_(span)
        for member, held in enumerate(self._others, start=1):
            target = narrowed(whole, held[part.name])
            other = target if target.is_contiguous() else torch.empty_like(target).contiguous()
            self._joined_group().recv([other], member, 0).wait()
            if other is not target:
                target.copy_(other)
        return whole

    def leave(self) -> None:
        """Hold the process group no more; who waits for this rank is freed when it is closed."""
        self._group = None

    def _joined_group(self) -> dist.ProcessGroup:
        if self._group is None:
            raise RankLost("this rank has left the process group that it saves with")
        return self._group


class Frozen(NamedTuple):
    """The frozen tensors that a rank writes: copied whole from the model, as they are there."""

    model: Location | None
    parts: Sequence[TensorSlice]

    def tensors(self) -> list[tuple[TensorSlice, Tensor]]:
        """Return them all; of a model on a disk, values stay in its files until they are used."""
        if self.model is None or not self.parts:
            return []
        model = Checkpoint.open(self.model)
        return [(part.whole, model.read(part.whole)) for part in self.parts]


NOTHING_FROZEN = Frozen(None, ())


class Writing:
    """Writes the snapshot of rank ``rank`` to a directory, in the thread that calls it.

    Between two tensors it looks whether ``unwanted`` is set and whether ``seconds`` are over.
    """

    def __init__(
        self,
        rank: int,
        family: str,
        spans: Spans,
        directory: Location,
        seconds: float,
        unwanted: threading.Event,
    ) -> None:
        self._rank = rank
        self._family = family
        self._spans = spans
        self._directory = directory
        self._seconds = seconds
        self._unwanted = unwanted
        self._file = f"rank-{rank:05d}.safetensors"

    def write(self, snapshot: Snapshot, frozen: Frozen = NOTHING_FROZEN) -> WrittenFiles:
        """Write everything, safe in its storage; StorageError or RankLost say what went wrong."""
        until = time.monotonic() + self._seconds
        try:
            weights = tuple(self._weights(snapshot, frozen, until))
            POINTS.reach("write", snapshot.step)
            return WrittenFiles(
                weights,
                tuple(self._moments(snapshot, until)),
                snapshot.balance,
                (in_use(),),
            )
        except RaymoeError:
            raise
        except OSError as error:
            raise StorageError(
                f"rank {self._rank} could not write {self._directory}: {error}; every rank must "
                "reach the same files with room on the disk"
            ) from error
        except Exception as error:
            raise RankLost(
                f"rank {self._rank} failed while it wrote {self._directory}: {error}"
            ) from error

    def _weights(self, snapshot: Snapshot, frozen: Frozen, until: float) -> Iterator[StoredTensor]:
        """Send the spans that the leader joins, then write the rest."""
        held = (*snapshot.weights, *frozen.tensors())
        given = {disk_name(self._family, part.name): (part, value) for part, value in held}
        specs = in_order(
            TensorSpec(name, part.shape, value.dtype) for name, (part, value) in given.items()
        )
        sent = [spec for spec in specs if self._spans.sends(given[spec.name][0])]
        for spec in sent:
            self._check(until)
            self._spans.send(given[spec.name][1])
        specs = [spec for spec in specs if not self._spans.sends(given[spec.name][0])]
        if not specs:
            return
        alone = all(part.role.factor is not None for part, _ in held)
        file = f"{FACTORS if alone else 'model'}-{self._file}"
        with streamed(self._directory / file, specs) as writer:
            for spec in specs:
                self._check(until)
                digest = writer.write(spec.name, self._spans.whole(*given[spec.name]))
                yield StoredTensor(spec.name, file, spec.shape, TYPES[spec.dtype], digest)

    def _moments(self, snapshot: Snapshot, until: float) -> Iterator[Piece]:
        """Write every moment of every range as it lies in memory."""
        file, given = f"{OPTIMIZER}/{self._file}", dict[str, tuple[Piece, Tensor]]()
        for state in snapshot.states:
            name = disk_name(self._family, state.range.name)
            for moment, value in state.moments.items():
                piece = piece_of(state.range, name, moment, file, value.dtype)
                given[piece.key] = piece, value
        if not given:
            return
        make_directory(self._directory / OPTIMIZER)
        specs = in_order(
            TensorSpec(key, tuple(value.shape), value.dtype) for key, (_, value) in given.items()
        )
        with streamed(self._directory / OPTIMIZER / self._file, specs) as writer:
            for spec in specs:
                self._check(until)
                piece, value = given[spec.name]
                yield replace(piece, sha256=writer.write(spec.name, value))

    def _check(self, until: float) -> None:
        if self._unwanted.is_set():
            raise RankLost(f"writing {self._directory} was given up")
        if time.monotonic() > until:
            raise DeadlineExceeded(
                f"rank {self._rank} did not write {self._directory} in {self._seconds:g} s; give "
                "saving more time, or faster storage"
            )
