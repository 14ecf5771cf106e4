"""Hugging Face ``config.json`` to ModelConfig and back, one file per family.

A key that changes the numbers and that we do not compute is refused, never ignored; so is an option
of ours for which a format has no key.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from moe.config.families import (
    deepseek,
    llama,
    mistral,
    mixtral,
    olmoe,
    qwen2,
    qwen2_moe,
    qwen3,
    qwen3_moe,
    raymoe,
    skywork,
)
from moe.config.families.decoder import decoder_table, refuse_unspoken
from moe.config.model import ModelConfig
from moe.config.values import Table
from moe.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Family:
    """One format: its reader, the keys that it writes beside the common keys, and the options it
    holds.

    ``holds`` names the options of ModelConfig and MoeConfig for which the format has keys.
    """

    read: Callable[[Table], ModelConfig]
    table: Callable[[ModelConfig], dict[str, Any]]
    holds: frozenset[str]
    experts: bool

    @property
    def one_width(self) -> bool:
        """Whether one key gives the width of all feed-forwards: the format has no dense layers
        beside experts.
        """
        return self.experts and "dense_layers" not in self.holds


FAMILIES: Mapping[str, Family] = {
    "llama": Family(llama.read_llama, llama.llama_table, llama.HOLDS, experts=False),
    "mistral": Family(mistral.read_mistral, mistral.mistral_table, mistral.HOLDS, experts=False),
    "qwen2": Family(qwen2.read_qwen2, qwen2.qwen2_table, qwen2.HOLDS, experts=False),
    "qwen3": Family(qwen3.read_qwen3, qwen3.qwen3_table, qwen3.HOLDS, experts=False),
    "skywork": Family(skywork.read_skywork, skywork.skywork_table, skywork.HOLDS, experts=False),
    "mixtral": Family(mixtral.read_mixtral, mixtral.mixtral_table, mixtral.HOLDS, experts=True),
    "olmoe": Family(olmoe.read_olmoe, olmoe.olmoe_table, olmoe.HOLDS, experts=True),
    "qwen2_moe": Family(
        qwen2_moe.read_qwen2_moe, qwen2_moe.qwen2_moe_table, qwen2_moe.HOLDS, experts=True
    ),
    "qwen3_moe": Family(
        qwen3_moe.read_qwen3_moe, qwen3_moe.qwen3_moe_table, qwen3_moe.HOLDS, experts=True
    ),
    "skywork_moe": Family(
        skywork.read_skywork_moe, skywork.skywork_moe_table, skywork.MOE_HOLDS, experts=True
    ),
    "deepseek": Family(
        deepseek.read_deepseek, deepseek.deepseek_table, deepseek.HOLDS, experts=True
    ),
    "raymoe": Family(raymoe.read_raymoe, raymoe.raymoe_table, raymoe.HOLDS, experts=True),
}
DENSE_FAMILIES = tuple(name for name, family in FAMILIES.items() if not family.experts)
MOE_FAMILIES = tuple(name for name, family in FAMILIES.items() if family.experts)


def family_named(name: str) -> Family:
    """Return a format by its name; ConfigError lists them."""
    if name not in FAMILIES:
        raise ConfigError(f"no family {name!r}; choose one of {', '.join(FAMILIES)}")
    return FAMILIES[name]


def read_config(table: Table) -> ModelConfig:
    """Return the architecture a ``config.json`` describes."""
    model_type = table.get("model_type")
    family = FAMILIES.get(str(model_type))
    if family is None:
        raise ConfigError(
            f"config.json says model_type {model_type!r}; raymoe reads {', '.join(FAMILIES)}"
        )
    try:
        return family.read(table)
    except KeyError as error:
        raise ConfigError(f"config.json of a {model_type} model lacks the key {error}") from None
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"config.json of a {model_type} model has a value of the wrong kind: {error}"
        ) from error


def write_config(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """Return the ``config.json`` of an architecture; ``dtype`` names the type of its tensors."""
    family = family_named(config.family)
    if family.experts != (config.moe is not None):
        raise ConfigError(
            f"the {config.family} format holds {'models with' if family.experts else 'no'} "
            f"experts but this model has {config.experts or 'none'}; write "
            f"{' or '.join(MOE_FAMILIES if config.moe else DENSE_FAMILIES)}"
        )
    refuse_unspoken(config, family.holds)
    return decoder_table(config, dtype) | family.table(config)
