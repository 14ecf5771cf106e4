"""A dense model to a mixture of experts, tensor by tensor (Skywork-MoE section 3).

Method ``copy``: every expert of a layer is the dense feed-forward, the router is new, the rest is
kept. With routing weights that sum to one the model computes exactly the dense function until
training tells the experts apart. The router is drawn from a small normal: a zero router would send
every token to the same experts.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path

import torch
from torch import Tensor

from moe.checkpoint.names import disk_name
from moe.checkpoint.reader import INDEX, Checkpoint
from moe.checkpoint.remote import copy_remote_code
from moe.checkpoint.writer import (
    ShardWriter,
    TensorSpec,
    copy_tokenizer,
    pack,
    write_index,
    write_json,
)
from moe.config.families import MOE_FAMILIES, write_config
from moe.config.model import ModelConfig, MoeConfig
from moe.config.tensors import TensorSlice, tensors
from moe.errors import CheckpointError, ConfigError
from moe.staging import staged
from moe.surgery.distance import LogitDistance, logit_distance
from moe.surgery.receipt import Receipt, hashes

Progress = Callable[[int, int], None]

MAX_RELATIVE = 1e-4
"""Difference of logits, relative to the largest, from which on a conversion is refused.

Some 1e-6 is what float32 rounding leaves. One bound serves every type of weights: they are copied
bit for bit and both models are computed in float32, so the type on disk does not enter.
"""


@dataclass(frozen=True, slots=True)
class UpcycleOptions:
    """``family`` None chooses: mixtral, or skywork_moe where gate logits are normalised."""

    experts: int
    top_k: int
    gate_norm: float | None = None
    router_std: float = 0.02
    seed: int = 0
    family: str | None = None
    probe_tokens: int = 64

    def __post_init__(self) -> None:
        if not 0 <= self.router_std < inf or self.probe_tokens < 1:
            raise ConfigError(
                f"router_std is {self.router_std} and probe_tokens {self.probe_tokens}; "
                "the first must be finite and not negative, the second at least 1"
            )


def upcycle(
    source: Path, to: Path, options: UpcycleOptions, progress: Progress = lambda done, total: None
) -> Receipt:
    """Write the mixture-of-experts form of a dense model directory; return its receipt.

    ``progress`` is told the bytes written and the bytes in all.
    """
    dense = Checkpoint.open(source)
    config = upcycled_config(dense.config, options)
    dtype = dense.dtype
    with staged(to) as staging:
        _write_tensors(dense, config, options, staging, progress)
        write_json(staging / "config.json", write_config(config, str(dtype).removeprefix("torch.")))
        copy_tokenizer(source, staging)
        copy_remote_code(config.family, staging)
        distance = logit_distance(dense, Checkpoint.open(staging), _probe(config, options))
        _check(distance, source, options)
        receipt = Receipt(
            method="copy",
            options=asdict(options) | {"family": config.family},
            seed=options.seed,
            source=source.resolve().name,
            source_files=hashes((source / "config.json", *dense.shards.paths)),
            files=hashes(tuple(sorted(staging.iterdir()))),
            distance=distance,
        )
        receipt.save(staging)
    return receipt


def upcycled_config(dense: ModelConfig, options: UpcycleOptions) -> ModelConfig:
    """Return the architecture after upcycling; ConfigError where it cannot be written."""
    if dense.moe is not None:
        raise ConfigError(
            f"the source is a {dense.family} model with experts already; give a dense one"
        )
    family = options.family or ("mixtral" if options.gate_norm is None else "skywork_moe")
    if family not in MOE_FAMILIES:
        raise ConfigError(f"cannot write family {family!r}; choose {' or '.join(MOE_FAMILIES)}")
    moe = MoeConfig(options.experts, options.top_k, dense.ffn_size, options.gate_norm)
    config = dense.with_moe(moe, family)
    write_config(config, "float32")
    return config


def _write_tensors(
    dense: Checkpoint,
    config: ModelConfig,
    options: UpcycleOptions,
    directory: Path,
    progress: Progress,
) -> None:
    table = {disk_name(config.family, tensor.name): tensor for tensor in tensors(config)}
    specs = [
        TensorSpec(name, tensor.shape, _dtype(dense, tensor)) for name, tensor in table.items()
    ]
    shards = pack(specs)
    files = {
        f"model-{number:05d}-of-{len(shards):05d}.safetensors": shard
        for number, shard in enumerate(shards, start=1)
    }
    done, total = 0, sum(spec.bytes for spec in specs)
    values = _values(dense, config, options)
    for file, shard in files.items():
        with ShardWriter(directory / file, shard) as writer:
            for spec in shard:
                writer.write(spec.name, next(values))
                done += spec.bytes
                progress(done, total)
    write_index(directory, INDEX, files)


def _values(dense: Checkpoint, config: ModelConfig, options: UpcycleOptions) -> Iterator[Tensor]:
    """Yield the value of every tensor of the new model in the order of its table.

    A dense tensor that several experts copy is read again for each: the page cache holds it, and
    memory holds one tensor.
    """
    for tensor in tensors(config):
        if _is_new(tensor):
            yield _router(tensor, options)
        else:
            yield _finite(dense, _parent(tensor))


def _finite(dense: Checkpoint, tensor: TensorSlice) -> Tensor:
    """Read a tensor of the source; CheckpointError where it is not all numbers."""
    value = dense.read(tensor)
    if not value.isfinite().all():
        raise CheckpointError(
            f"{tensor.name} in {dense.path} holds NaN or infinity, which every expert would "
            "inherit; give a model whose weights are finite"
        )
    return value


def _is_new(tensor: TensorSlice) -> bool:
    return ".mlp.router." in tensor.name


def _dtype(dense: Checkpoint, tensor: TensorSlice) -> torch.dtype:
    """Return the type a tensor of the new model has: that of its parent, so nothing is rounded."""
    return dense.dtype if _is_new(tensor) else dense.dtype_of(_parent(tensor))


def _parent(tensor: TensorSlice) -> TensorSlice:
    """Return the dense tensor that a tensor of the new model copies."""
    head, experts, tail = tensor.name.partition(".experts.")
    if not experts:
        return tensor
    return TensorSlice(f"{head}.{tail.split('.', 1)[1]}", tensor.shape)


def _router(tensor: TensorSlice, options: UpcycleOptions) -> Tensor:
    layer = int(tensor.name.split(".")[2])
    generator = torch.Generator().manual_seed(options.seed * 100_003 + layer)
    return torch.randn(tensor.shape, generator=generator) * options.router_std


def _check(distance: LogitDistance, source: Path, options: UpcycleOptions) -> None:
    """Raise CheckpointError unless the new model computes the function of the dense one."""
    asked = f"router_std = {options.router_std} and gate_norm = {options.gate_norm}"
    if not distance.finite:
        raise CheckpointError(
            f"the logits of {source} or of its mixture-of-experts form with {asked} are not "
            f"finite (largest difference {distance.max_absolute}); lower these two, or check the "
            "source with `raymoe evaluate`"
        )
    if distance.relative >= MAX_RELATIVE:
        raise CheckpointError(
            f"the mixture-of-experts form of {source} with {asked} computes other logits: they "
            f"differ by {distance.relative:.1e} of the largest and rounding explains less than "
            f"{MAX_RELATIVE:.0e}; nothing was written, lower these two"
        )


def _probe(config: ModelConfig, options: UpcycleOptions) -> Tensor:
    generator = torch.Generator().manual_seed(options.seed)
    length = min(options.probe_tokens, config.max_positions)
    return torch.randint(config.vocab_size, (1, length), generator=generator)
