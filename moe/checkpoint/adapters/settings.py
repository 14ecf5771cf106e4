"""``adapter_config.json``: what an adapter asks for. What raymoe does not do is refused by name."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from moe.config.json_file import read_json
from moe.errors import CheckpointError
from moe.storage import Location

NAME = "adapter_config.json"

T = TypeVar("T")

_READ = frozenset({"peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"})
_OF_TRAINING = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "lora_dropout",
        "lora_ga_config",
        "loftq_config",
        "megatron_config",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "target_modules",
        "target_parameters",
        "velora_config",
    }
)
"""Keys that say how the adapter was made. Which weights it adds to is seen in its tensors."""

_ALLOWED: Mapping[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
    "task_type": ("CAUSAL_LM",),
}
"""Values beside empty ones that change nothing here. Other ways to begin, such as ``pissa`` and
``loftq``, take something out of the weights of the model.
"""

_MERGE = "merge the adapter into the model (merge_and_unload) and serve the result"
_REMEDIES: Mapping[str, str] = {
    "modules_to_save": f"these modules replace the model's own for all requests; {_MERGE}",
    "trainable_token_indices": f"these replace rows of the embedding; {_MERGE}",
    "init_lora_weights": "its beginning was taken out of the model's weights; save it as a plain "
    "adapter (path_initial_model_for_weight_conversion)",
    "task_type": "it does not generate text; give an adapter of a causal language model",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Ranks and alphas, where patterns of module names may say others.

    A pattern is a regular expression for the end of a name, from a dot on, as in peft.
    """

    rank: int
    alpha: float
    stabilised: bool = False
    ranks: Mapping[str, int] | None = None
    alphas: Mapping[str, float] | None = None

    def rank_of(self, module: str) -> int:
        """Return the rank of the matrices of a module."""
        return _by_pattern(self.ranks, module, self.rank)

    def scale_of(self, module: str) -> float:
        """Return the number by which what they give is multiplied: alpha / r, or alpha / sqrt(r)
        where the rank is stabilised (Kalajdzievski 2023).
        """
        rank = self.rank_of(module)
        over = math.sqrt(rank) if self.stabilised else rank
        return _by_pattern(self.alphas, module, self.alpha) / over


def read_settings(directory: Location) -> Settings:
    """Read the settings of an adapter; CheckpointError names what raymoe does not do."""
    path = directory / NAME
    if not path.is_file():
        raise CheckpointError(
            f"{directory} is no adapter: it has no {NAME}; give the directory that peft's "
            "save_pretrained wrote"
        )
    table = read_json(path)
    for key in sorted(table):
        _check(path, key, table[key])
    try:
        settings = Settings(
            rank=int(table["r"]),
            alpha=float(table["lora_alpha"]),
            stabilised=bool(table.get("use_rslora")),
            ranks={key: int(rank) for key, rank in (table.get("rank_pattern") or {}).items()},
            alphas={key: float(own) for key, own in (table.get("alpha_pattern") or {}).items()},
        )
        for pattern in (*(settings.ranks or {}), *(settings.alphas or {})):
            re.compile(pattern)
    except (KeyError, TypeError, ValueError, AttributeError, re.error) as error:
        raise CheckpointError(
            f"{path} has no r and lora_alpha, or patterns of them, that can be read: {error!r}; "
            "save the adapter again with peft"
        ) from None
    if min((settings.rank, *(settings.ranks or {}).values())) < 1:
        raise CheckpointError(f"{path} has a rank below 1; save the adapter again with peft")
    return settings


def _check(path: Location, key: str, value: Any) -> None:
    """Raise CheckpointError if a setting asks for what raymoe does not do."""
    if key == "peft_type" and value != "LORA":
        raise CheckpointError(f"{path}: peft_type is {value!r}; raymoe serves LORA adapters")
    empty = value is None or value in (False, "", [], {})
    if key in _READ or key in _OF_TRAINING or empty or value in _ALLOWED.get(key, ()):
        return
    remedy = _REMEDIES.get(key, _MERGE)
    raise CheckpointError(f"{path}: {key} = {value!r} is not supported; {remedy}")


def _by_pattern(patterns: Mapping[str, T] | None, module: str, otherwise: T) -> T:
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return otherwise
