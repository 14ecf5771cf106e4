"""Hugging Face ``config.json`` to ModelConfig and back, one file per family.

Keys that would change the numbers and that we do not compute are refused, never ignored; so are
options of ours that a format has no key for.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from moe.config.families.decoder import decoder_table, refuse_unspoken
from moe.config.families.llama import HOLDS as LLAMA_HOLDS
from moe.config.families.llama import llama_table, read_llama
from moe.config.families.mixtral import HOLDS as MIXTRAL_HOLDS
from moe.config.families.mixtral import mixtral_table, read_mixtral
from moe.config.families.skywork import MOE_HOLDS as SKYWORK_MOE_HOLDS
from moe.config.families.skywork import read_skywork_moe, skywork_moe_table
from moe.config.model import ModelConfig
from moe.config.values import Table
from moe.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Family:
    """One format: how it is read, the keys it writes beside the common ones, and what it can say.

    ``holds`` names the options of ModelConfig and MoeConfig that the format has keys for.
    """

    read: Callable[[Table], ModelConfig]
    table: Callable[[ModelConfig], dict[str, Any]]
    holds: frozenset[str]
    experts: bool


FAMILIES: Mapping[str, Family] = {
    "llama": Family(read_llama, llama_table, LLAMA_HOLDS, experts=False),
    "mixtral": Family(read_mixtral, mixtral_table, MIXTRAL_HOLDS, experts=True),
    "skywork_moe": Family(read_skywork_moe, skywork_moe_table, SKYWORK_MOE_HOLDS, experts=True),
}
DENSE_FAMILIES = tuple(name for name, family in FAMILIES.items() if not family.experts)
MOE_FAMILIES = tuple(name for name, family in FAMILIES.items() if family.experts)

_READERS: Mapping[str, Callable[[Table], ModelConfig]] = {
    name: family.read for name, family in FAMILIES.items()
} | {"skywork": read_skywork_moe}


def read_config(table: Table) -> ModelConfig:
    """Return the architecture a ``config.json`` describes."""
    model_type = table.get("model_type")
    reader = _READERS.get(str(model_type))
    if reader is None:
        raise ConfigError(
            f"config.json says model_type {model_type!r}; raymoe reads {', '.join(_READERS)}"
        )
    try:
        return reader(table)
    except KeyError as error:
        raise ConfigError(f"config.json of a {model_type} model lacks the key {error}") from None
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"config.json of a {model_type} model has a value of the wrong kind: {error}"
        ) from error


def write_config(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """Return the ``config.json`` of an architecture; ``dtype`` names the type of its tensors."""
    family = FAMILIES[config.family]
    if family.experts != (config.moe is not None):
        raise ConfigError(
            f"the {config.family} format holds {'models with' if family.experts else 'no'} "
            f"experts but this model has {config.experts or 'none'}; write "
            f"{' or '.join(MOE_FAMILIES if config.moe else DENSE_FAMILIES)}"
        )
    refuse_unspoken(config, family.holds)
    return decoder_table(config, dtype) | family.table(config)
