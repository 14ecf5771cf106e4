"""An architecture with some of its sizes changed: ``layers=2``, ``shared_size=64``."""

import difflib
import json
import tomllib
from collections.abc import Iterable
from dataclasses import asdict, fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from moe.config.model import ModelConfig, MoeConfig
from moe.errors import ConfigError

_MODEL = tuple(each.name for each in fields(ModelConfig) if each.name != "moe")
_MOE = tuple(each.name for each in fields(MoeConfig))
_SIZES = ("vocab_size", "hidden_size", "layers", "heads", "kv_heads", "ffn_size", "max_positions")
_CONFIG = TypeAdapter(ModelConfig)


def override(config: ModelConfig, overrides: Iterable[str]) -> ModelConfig:
    """Return the architecture after ``key=value`` for fields of either half; values are TOML.

    ConfigError says which key is unknown or has a value of the wrong kind.
    """
    table = asdict(config)
    known = (*_MODEL, *_MOE) if config.moe else _MODEL
    for text in overrides:
        key, value = _pair(text, known)
        (table if key in _MODEL else table["moe"])[key] = value
    try:
        return _CONFIG.validate_json(json.dumps(table), strict=True)
    except ValidationError as error:
        faults = "; ".join(_fault(dict(entry)) for entry in error.errors())
        raise ConfigError(f"--set: {faults}") from None


def _pair(text: str, known: tuple[str, ...]) -> tuple[str, Any]:
    key, equals, written = (part.strip() for part in text.partition("="))
    if not equals or not key:
        raise ConfigError(f"--set {text}: expected key=value, such as layers=2")
    if key not in known:
        close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"known keys: {', '.join(known)}"
        raise ConfigError(f"--set {text}: unknown key {key}; {hint}")
    try:
        value = tomllib.loads(f"value = {written}")["value"]
    except tomllib.TOMLDecodeError:
        value = written
    if key in _SIZES and isinstance(value, int) and value < 1:
        raise ConfigError(f"--set {text}: {key} must be at least 1")
    return key, value


def _fault(entry: dict[str, Any]) -> str:
    return f"{entry['loc'][-1]}: {entry['msg']}; found {entry['input']!r}"
