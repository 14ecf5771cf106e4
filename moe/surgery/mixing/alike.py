"""Whether dense models can be mixed: one architecture, one vocabulary."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from moe.checkpoint.reader import Checkpoint
from moe.config.json_file import read_json
from moe.config.model import ModelConfig
from moe.errors import ConfigError
from moe.storage import local

_MAY_DIFFER = frozenset(
    {"family", "initializer_range", "bos_token_id", "eos_token_ids", "pad_token_id"}
)
"""Fields that change no number of a forward pass."""


def check_alike(models: Sequence[Checkpoint]) -> None:
    """Raise ConfigError, with the first difference, unless all models can share one trunk."""
    first, *others = models
    for other in others:
        for field in fields(ModelConfig):
            mine, theirs = (getattr(each.config, field.name) for each in (first, other))
            if field.name not in _MAY_DIFFER and mine != theirs:
                raise ConfigError(
                    f"{first.path} has {field.name} = {mine!r} and {other.path} has {theirs!r}; "
                    "experts of one model need one architecture: mix models that were trained "
                    "from one model"
                )
        _check_words(local(first.path), local(other.path))


def _check_words(one: Path, other: Path) -> None:
    """Raise ConfigError if two tokenizers give one number to different words."""
    mine, theirs = _words(one), _words(other)
    for number in sorted(mine.keys() & theirs.keys()):
        if mine[number] != theirs[number]:
            raise ConfigError(
                f"token {number} is {mine[number]!r} for {one} and {theirs[number]!r} for "
                f"{other}: experts would be fed words of another vocabulary; mix models with one "
                "tokenizer"
            )


def _words(model: Path) -> dict[int, str]:
    """Return the word of each token number; nothing where there is no fast tokenizer."""
    path = model / "tokenizer.json"
    if not path.is_file():
        return {}
    table: dict[str, Any] = read_json(path)
    vocabulary = (table.get("model") or {}).get("vocab") or {}
    if isinstance(vocabulary, dict):
        found = {number: word for word, number in vocabulary.items()}
    else:  # Unigram: a list of words and scores
        found = {number: entry[0] for number, entry in enumerate(vocabulary)}
    added = table.get("added_tokens") or ()
    return found | {entry["id"]: entry["content"] for entry in added}
