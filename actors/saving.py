"""A rank's tensors to and from a checkpoint, whole on disk whatever the plan.

Spans of a tensor are brought together at the leader of the gang, one tensor at a time; experts are
whole and every rank writes its own. Optimiser moments go the same way as the weights they belong
to, so a checkpoint can be read under any plan.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from actors.membership import Groups
from actors.optimizer import MOMENTS, ShareOptimizer
from moe.checkpoint.manifest import OPTIMIZER, OPTIMIZER_INDEX
from moe.checkpoint.names import disk_name
from moe.checkpoint.reader import open_shards
from moe.checkpoint.writer import ShardWriter, TensorSpec
from moe.config.balance_state import BalanceState
from moe.config.model import ModelConfig
from moe.config.share import Share
from moe.config.tensors import TensorSlice, answers_for, held_by, is_trained


@dataclass(frozen=True, slots=True)
class SavedFiles:
    """Which tensors a rank wrote, by file name, of the model and of the optimiser."""

    model: dict[str, list[TensorSpec]]
    optimizer: dict[str, list[TensorSpec]]


SavedRank = tuple[SavedFiles, dict[int, BalanceState]]
"""What one rank adds to a checkpoint: its files, and the balance of the layers it holds."""


class ShareSaver:
    """Writes the tensors that one rank of a gang answers for."""

    def __init__(self, config: ModelConfig, gang: tuple[Share, ...], groups: Groups) -> None:
        self._config = config
        self._gang = gang
        self._groups = groups
        self._member = groups.membership.member

    def save(
        self, directory: Path, weights: Mapping[str, Tensor], optimizer: ShareOptimizer
    ) -> SavedFiles:
        """Write this rank's files; every rank of the gang must call it at the same time."""
        file = f"rank-{self._groups.membership.rank:05d}.safetensors"
        model = [
            self._spec(tensor, "", weights[tensor.name].dtype)
            for tensor in self._held()
            if self._writes(tensor)
        ]
        with ShardWriter(directory / f"model-{file}", model) as writer:
            for tensor in self._held():
                self._write(writer, tensor, "", weights[tensor.name])
        folder = directory / OPTIMIZER
        folder.mkdir(exist_ok=True)
        moments = [
            self._spec(tensor, f".{moment}", optimizer.parameters[tensor.name].dtype)
            for tensor in self._trained()
            if self._writes(tensor)
            for moment in MOMENTS
        ]
        with ShardWriter(folder / file, moments) as writer:
            for tensor in self._trained():
                for moment, part in optimizer.moments(tensor.name):
                    self._write(writer, tensor, f".{moment}", part)
        return SavedFiles({f"model-{file}": model}, {file: moments})

    def _held(self) -> Iterator[TensorSlice]:
        return held_by(self._config, self._gang[self._member])

    def _trained(self) -> Iterator[TensorSlice]:
        return (tensor for tensor in self._held() if is_trained(tensor.name))

    def _spec(self, tensor: TensorSlice, suffix: str, dtype: torch.dtype) -> TensorSpec:
        return TensorSpec(disk_name(self._config.family, tensor.name) + suffix, tensor.shape, dtype)

    def _write(self, writer: ShardWriter, tensor: TensorSlice, suffix: str, value: Tensor) -> None:
        whole = self._whole(tensor, value)
        if whole is not None:
            writer.write(disk_name(self._config.family, tensor.name) + suffix, whole)

    def _writes(self, tensor: TensorSlice) -> bool:
        share = self._gang[self._member]
        return answers_for(self._config, share, tensor) and (tensor.dim is None or share.leader)

    def _whole(self, tensor: TensorSlice, value: Tensor) -> Tensor | None:
        """Return the whole tensor where this rank writes it; else send its span, if it is one."""
        value = value.detach()
        if tensor.dim is None:
            return value if self._writes(tensor) else None
        if not answers_for(self._config, self._gang[self._member], tensor):
            return None
        if self._member > 0:
            dist.send(value.contiguous(), self._groups.gang_rank(0), group=self._groups.gang)
            return None
        return torch.cat([value, *self._others(tensor, value)], dim=tensor.dim)

    def _others(self, tensor: TensorSlice, like: Tensor) -> Iterator[Tensor]:
        for member in range(1, len(self._gang)):
            held = held_by(self._config, self._gang[member])
            shape = next(other for other in held if other.name == tensor.name).held_shape
            part = torch.empty(shape, dtype=like.dtype, device=like.device)
            dist.recv(part, self._groups.gang_rank(member), group=self._groups.gang)
            yield part


def restore_optimizer(
    directory: Path, config: ModelConfig, share: Share, optimizer: ShareOptimizer, step: int
) -> None:
    """Read the moments of a share from a training checkpoint."""
    shards = open_shards(directory / OPTIMIZER, OPTIMIZER_INDEX)
    for tensor in held_by(config, share):
        if not is_trained(tensor.name):
            continue
        name = disk_name(config.family, tensor.name)
        span = (tensor.dim, tensor.start, tensor.stop)
        moments = {moment: shards.read(f"{name}.{moment}", *span) for moment in MOMENTS}
        optimizer.restore(tensor.name, moments, step)
