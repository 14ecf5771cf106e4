"""A model directory with random weights: where training from scratch begins.

Weights are normal with the deviation ``initializer_range`` of the architecture, as DeepSeekMoE
draws all of its own, norms one, biases zero. Each tensor has a generator of its own, from the seed
and the tensor's name: experts differ, and the order of writing does not matter.
"""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from moe.checkpoint.names import disk_name
from moe.checkpoint.reader import INDEX
from moe.checkpoint.remote import copy_remote_code
from moe.checkpoint.writer import ShardWriter, TensorSpec, pack, write_index, write_json
from moe.config.families import write_config
from moe.config.model import ModelConfig
from moe.config.tensors import TensorSlice, tensors
from moe.errors import StorageError
from moe.staging import refuse_existing, staged

Progress = Callable[[int, int], None]


def initialise(
    config: ModelConfig,
    to: Path,
    seed: int,
    dtype: torch.dtype = torch.float32,
    progress: Progress = lambda done, total: None,
) -> None:
    """Write a model of random weights; ``progress`` is told the bytes written and in all."""
    table = write_config(config, str(dtype).removeprefix("torch."))
    ours = {disk_name(config.family, tensor.name): tensor for tensor in tensors(config)}
    specs = [TensorSpec(name, tensor.shape, dtype) for name, tensor in ours.items()]
    total = sum(spec.bytes for spec in specs)
    refuse_existing(to)
    _check_room(to, total)
    shards = pack(specs)
    files = {
        f"model-{number:05d}-of-{len(shards):05d}.safetensors": shard
        for number, shard in enumerate(shards, start=1)
    }
    done = 0
    with staged(to) as staging:
        for file, shard in files.items():
            with ShardWriter(staging / file, shard) as writer:
                for spec in shard:
                    writer.write(spec.name, initial(config, ours[spec.name], seed))
                    done += spec.bytes
                    progress(done, total)
        write_index(staging, INDEX, files)
        write_json(staging / "config.json", table)
        copy_remote_code(config.family, staging)


def initial(config: ModelConfig, tensor: TensorSlice, seed: int) -> Tensor:
    """Return the value that a tensor of the model begins with, in float32."""
    if tensor.name.endswith("bias"):
        return torch.zeros(tensor.shape)
    if tensor.name.endswith("norm.weight"):
        return torch.ones(tensor.shape)
    digest = hashlib.sha256(f"{seed}:{tensor.name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
    return torch.randn(tensor.shape, generator=generator) * config.initializer_range


def _check_room(to: Path, needed: int) -> None:
    """Raise StorageError where the disk cannot hold the model: the papers' are large."""
    parent = next(each for each in to.resolve().parents if each.is_dir())
    free = shutil.disk_usage(parent).free
    if needed > free:
        raise StorageError(
            f"the model takes {needed / 1e9:.1f} GB but {parent} has {free / 1e9:.1f} GB free; "
            "choose another destination, or make the model smaller with --set layers=2 and the like"
        )
