"""An architecture with some sizes changed: ``layers=2``, ``shared_size=64``."""

import json
from collections.abc import Collection, Iterable
from dataclasses import asdict, fields, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from moe.config.families import family_named
from moe.config.model import ModelConfig, MoeConfig
from moe.config.overrides import fault, hint, value_of
from moe.errors import ConfigError

_MODEL = tuple(each.name for each in fields(ModelConfig) if each.name not in ("moe", "tuning"))
_MOE = tuple(each.name for each in fields(MoeConfig))
_SIZES = ("vocab_size", "hidden_size", "layers", "heads", "kv_heads", "ffn_size", "max_positions")
_CONFIG = TypeAdapter(ModelConfig)


def override(config: ModelConfig, overrides: Iterable[str]) -> ModelConfig:
    """Return the architecture after ``key=value`` overrides of ModelConfig or MoeConfig fields;
    values are TOML.

    In formats with one width, ``ffn_size`` and ``expert_size`` mean the same and change together.
    ConfigError says which key is unknown or has a value of the wrong kind.
    """
    table = asdict(config)
    known = (*_MODEL, *_MOE) if config.moe else _MODEL
    given = dict(_pair(text, known) for text in overrides)
    for key, value in given.items():
        (table if key in _MODEL else table["moe"])[key] = value
    try:
        made = _CONFIG.validate_json(json.dumps(table, default=str), strict=True)
    except ValidationError as error:
        faults = "; ".join(fault(_key(entry["loc"]), dict(entry)) for entry in error.errors())
        raise ConfigError(f"--set: {faults}") from None
    return _with_one_width(made, given) if family_named(made.family).one_width else made


def _pair(text: str, known: tuple[str, ...]) -> tuple[str, Any]:
    key, equals, written = (part.strip() for part in text.partition("="))
    if not equals or not key:
        raise ConfigError(f"--set {text}: expected key=value, such as layers=2")
    if key not in known:
        raise ConfigError(f"--set {text}: unknown key {key}; {hint(key, known)}")
    value = value_of(written)
    if key in _SIZES and isinstance(value, int) and value < 1:
        raise ConfigError(f"--set {text}: {key} must be at least 1")
    return key, value


def _with_one_width(config: ModelConfig, given: Collection[str]) -> ModelConfig:
    """Return feed-forward and experts at the given width, else at the width of the experts."""
    if config.moe is None:
        return config
    dense, expert = config.ffn_size, config.moe.expert_size
    if {"ffn_size", "expert_size"} <= set(given) and dense != expert:
        raise ConfigError(
            f"--set: ffn_size = {dense} and expert_size = {expert}, but the {config.family} "
            "format has one width for both; give one of them"
        )
    width = dense if "ffn_size" in given else expert
    return replace(config, ffn_size=width, moe=replace(config.moe, expert_size=width))


def _key(location: tuple[int | str, ...]) -> str:
    """Return the key as the user gives it: keys of ModelConfig and MoeConfig share one level."""
    return ".".join(map(str, location)).removeprefix("moe.")
