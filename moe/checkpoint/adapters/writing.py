"""Writes the factors that a run trained as an adapter in ``peft``'s format."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from moe.checkpoint.adapters.files import WEIGHTS
from moe.checkpoint.adapters.ours import Place, lora_of, places, stands_alone
from moe.checkpoint.adapters.settings import NAME
from moe.checkpoint.writer import ShardWriter, TensorSpec, write_json
from moe.config.model import ModelConfig
from moe.config.tensors import TensorSlice, layer_prefix, tensors


def write_adapter(
    directory: Path, config: ModelConfig, read: Callable[[TensorSlice], Tensor], base: str
) -> None:
    """Write both files of an adapter of the model ``base``, a path or a name.

    ``read`` returns a whole factor in float32. Memory holds the experts of one layer.
    """
    found, factors = places(config), {each.name: each for each in tensors(config)}
    by_key: dict[str, list[str]] = {}
    for name, place in found.items():
        by_key.setdefault(place.key, []).append(name)
    specs = [TensorSpec(key, found[names[0]].shape, torch.float32) for key, names in by_key.items()]
    with ShardWriter(directory / WEIGHTS, specs) as writer:
        for key, names in by_key.items():
            parts = [read(factors[name]).float() for name in names]
            writer.write(key, _joined(found[names[0]], parts))
    write_json(directory / NAME, _settings(config, found, factors, base))


def _joined(place: Place, parts: list[Tensor]) -> Tensor:
    """Return the tensor of some factors: one, or those of a layer's experts in their order."""
    if place.expert is None:
        return parts[0]
    if place.key.endswith("lora_A.weight"):
        return torch.cat(parts)
    return torch.stack(parts, dim=2).flatten(1)


def _settings(
    config: ModelConfig,
    found: Mapping[str, Place],
    factors: Mapping[str, TensorSlice],
    base: str,
) -> dict[str, object]:
    lora = lora_of(config)
    named = {alone: set(_targets(config, found, factors, alone)) for alone in (False, True)}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "use_rslora": lora.stabilised,
        "lora_dropout": 0.0,
        "bias": "none",
        "init_lora_weights": True,
        "inference_mode": True,
        "target_modules": sorted(named[False]),
        "target_parameters": sorted(named[True]) or None,
    }


def _targets(
    config: ModelConfig,
    found: Mapping[str, Place],
    factors: Mapping[str, TensorSlice],
    alone: bool,
) -> Iterator[str]:
    """Yield the modules, or else the parameters, that have factors, without their layers."""
    for name, place in found.items():
        part = factors[name]
        assert part.role.layer is not None
        if stands_alone(config, part) == alone:
            yield place.module.removeprefix(layer_prefix(part.role.layer))
