"""Where ``peft`` keeps the factors that a run trains.

Those of a weight are a module's of their own. Those of a layer's experts are stacked, because
transformers stacks the experts: A row block after row block, B column by column in turn::

    self_attn.q_proj.lora_A.weight                 [R, K]
    mlp.experts.base_layer.lora_A.weight           [experts * R, K]      gate and up
    mlp.experts.lora_B.weight                      [N, R * experts]      down
"""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from moe.checkpoint.adapters.placing import PREFIX
from moe.checkpoint.layouts import FUSED_FAMILIES
from moe.checkpoint.names import disk_name, fused_name
from moe.config.model import ModelConfig
from moe.config.tensors import TensorSlice, tensors
from moe.config.tuning import PAIR, Lora


class Place(NamedTuple):
    """Where one of our factors lies: in the tensor ``key``, as that of ``expert``, if it has one.

    ``module`` is what the adapter is beside, in peft's settings: a module, or a parameter.
    """

    key: str
    module: str
    expert: int | None
    shape: tuple[int, ...]


def lora_of(config: ModelConfig) -> Lora:
    """Return the factors of a model that a run tunes with LoRA."""
    assert config.tuning is not None
    assert config.tuning.lora is not None
    return config.tuning.lora


def places(config: ModelConfig) -> Mapping[str, Place]:
    """Return the place of each of our factors, by its name."""
    return {each.name: _place(config, each) for each in tensors(config) if each.role.factor}


def cut(place: Place, stored: Tensor, rank: int) -> Tensor:
    """Return the factor out of the tensor that holds it."""
    if place.expert is None:
        return stored
    if place.key.endswith("lora_A.weight"):
        return stored[place.expert * rank :][:rank]
    return stored[:, place.expert :: stored.shape[1] // rank]


def stands_alone(config: ModelConfig, part: TensorSlice) -> bool:
    """Return whether transformers keeps the weight beside a factor as a parameter without a module
    for it: those of experts and, in its own families, of routers.
    """
    role = part.role
    return role.expert is not None or (role.part == "router" and config.family in FUSED_FAMILIES)


def _place(config: ModelConfig, part: TensorSlice) -> Place:
    role, letter = part.role, part.role.factor
    parameter = fused_name(role)
    if parameter is not None:
        wrapped = ".base_layer" if role.part == "gate" else ""
        key = f"{PREFIX}{parameter.rpartition('.')[0]}{wrapped}.lora_{letter}.weight"
        first, second = part.shape
        wide = (first * config.experts, second), (first, second * config.experts)
        return Place(key, parameter, role.expert, wide[letter == "B"])
    ours = part.name.partition(f".{PAIR}.")[0]
    naming = "qwen2_moe" if config.family in FUSED_FAMILIES else config.family
    module = disk_name(naming, f"{ours}.weight").removesuffix(".weight")
    beside = f"{module}.weight" if stands_alone(config, part) else module
    return Place(f"{PREFIX}{module}.lora_{letter}.weight", beside, None, part.shape)
