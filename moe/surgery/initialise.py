"""A model directory with random weights: where training from scratch begins.

Weights are normal with the deviation ``initializer_range`` of the architecture, as in DeepSeekMoE;
norms are one, biases zero. Each tensor has a generator of its own, from the seed and the tensor's
name: experts differ, and the order of writing does not matter.
"""

from collections.abc import Iterator
from dataclasses import asdict
from math import sqrt
from pathlib import Path

import torch
from torch import Tensor

from moe.checkpoint.card.card import write_card
from moe.checkpoint.card.steps import Made
from moe.checkpoint.names import disk_name
from moe.checkpoint.remote import copy_remote_code
from moe.checkpoint.writer import TensorSpec, write_json
from moe.config.families import write_config
from moe.config.model import ModelConfig
from moe.config.role import NORMS
from moe.config.tensors import TensorSlice, tensors
from moe.staging import check_room, refuse_existing, staged
from moe.surgery.output import Progress, Values, write_model
from moe.surgery.receipt import hashes, write_receipt
from moe.surgery.seeds import generator


def initialise(
    config: ModelConfig,
    to: Path,
    seed: int,
    dtype: torch.dtype = torch.float32,
    progress: Progress = lambda done, total: None,
    preset: str | None = None,
) -> None:
    """Write a model with random weights and a receipt; ``preset`` names the source of its sizes.

    ``progress`` is called with the bytes written and the total.
    """
    kind = str(dtype).removeprefix("torch.")
    table = write_config(config, kind)
    ours = tuple(tensors(config))
    specs = [TensorSpec(disk_name(config.family, each.name), each.shape, dtype) for each in ours]
    refuse_existing(to)
    check_room(to, sum(spec.bytes for spec in specs))
    with staged(to) as staging:
        write_json(staging / "config.json", table)
        copy_remote_code(config.family, staging)
        how = {"preset": preset, "seed": seed, "dtype": kind}
        write_card(staging, (), config, Made("init", how))
        shards = write_model(staging, specs, _values(config, ours, seed, dtype), progress)
        rest = sorted(path for path in staging.iterdir() if path.name not in shards)
        files = {name: shard.result() for name, shard in shards.items()} | hashes(tuple(rest))
        made = {"method": "init", "preset": preset, "seed": seed, "dtype": kind}
        kept = {"architecture": asdict(config), "files": dict(sorted(files.items()))}
        write_receipt(staging, {**made, **kept})


def initial(config: ModelConfig, tensor: TensorSlice, seed: int) -> Tensor:
    """Return the initial value of a tensor of the model, in float32."""
    if tensor.role.bias:
        return torch.zeros(tensor.shape)
    if tensor.role.part in NORMS:
        return torch.ones(tensor.shape)
    source = generator(seed, tensor.name)
    return torch.randn(tensor.shape, generator=source) * config.initializer_range


def initial_factor(factor: TensorSlice, seed: int) -> Tensor:
    """Return the whole initial value of a factor of LoRA, in float32, as ``peft`` has it: B is
    zero, A uniform within one over the root of its inputs.
    """
    if factor.role.factor == "B":
        return torch.zeros(factor.shape)
    source = generator(seed, factor.name)
    return (2 * torch.rand(factor.shape, generator=source) - 1) / sqrt(factor.shape[1])


def _values(
    config: ModelConfig, ours: tuple[TensorSlice, ...], seed: int, dtype: torch.dtype
) -> Iterator[Values]:
    for tensor in ours:
        yield Values([initial(config, tensor, seed).to(dtype)])
