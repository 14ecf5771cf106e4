"""The architecture of a model directory: config.json, corrected by the weight files. No torch.

``tie_word_embeddings`` may contradict the files, if they hold an ``lm_head.weight`` that differs
from the embedding. transformers then computes with both, so raymoe reads such a model as untied. A
head that equals the embedding belongs to a tied model that was saved with both.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from moe.checkpoint.header import Entry, open_binary, read_header
from moe.checkpoint.layouts import layout_of
from moe.checkpoint.weight_files import INDEX, SINGLE, weight_files
from moe.config.families import read_config
from moe.config.json_file import read_json
from moe.config.model import ModelConfig
from moe.config.tensors import HEAD, embedding
from moe.storage import Location

_BLOCK_BYTES = 2**22
"""Number of bytes of two tensors to compare at a time."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """The architecture that is computed, and notes where it differs from ``config.json``."""

    config: ModelConfig
    notes: tuple[str, ...] = ()


def read_architecture(directory: Location) -> Architecture:
    """Return the architecture of a model directory, which may have ``config.json`` only."""
    config = read_config(read_json(directory / "config.json"))
    if not config.tie_embeddings:
        return Architecture(config)
    if not any((directory / name).exists() for name in (SINGLE, INDEX)):
        return Architecture(config)
    files = weight_files(directory)
    absent = [files[name] for name in _pair(config, files) if not files[name].exists()]
    if absent:
        return Architecture(
            config,
            (
                f"{HEAD} may differ from the embedding that config.json ties it to: {absent[0]} "
                "is missing and cannot be compared; the model is read as tied",
            ),
        )
    return settled(config, directory, files)


def settled(
    config: ModelConfig, directory: Location, files: Mapping[str, Location]
) -> Architecture:
    """Return the architecture from a ``config.json`` and the tensors beside it."""
    pair = _pair(config, files)
    if not pair:
        return Architecture(config)
    head, embedding = pair
    if _equal(*((files[name], name) for name in pair)):
        return Architecture(
            config,
            (
                f"{head} in {directory} equals {embedding}, to which config.json ties it; it is "
                "read once",
            ),
        )
    return Architecture(
        replace(config, tie_embeddings=False),
        (
            f"{head} in {directory} is not {embedding}, though config.json ties them; the model is "
            "read as untied, as transformers reads it; set tie_word_embeddings to false in "
            "config.json",
        ),
    )


def _pair(config: ModelConfig, files: Mapping[str, Location]) -> tuple[str, ...]:
    """Return the names of head and embedding if config.json ties them and both are stored."""
    stored = layout_of(config, files).stored(embedding(config))
    both = config.tie_embeddings and HEAD in files and stored.name in files
    return (HEAD, stored.name) if both and stored.name != HEAD else ()


def _equal(one: tuple[Location, str], other: tuple[Location, str]) -> bool:
    """Return whether two tensors have equal dtype, shape and bytes."""
    (path, name), (other_path, other_name) = one, other
    header, other_header = read_header(path), read_header(other_path)
    entry, other_entry = header.entries.get(name), other_header.entries.get(other_name)
    if entry is None or other_entry is None or _kind(entry) != _kind(other_entry):
        return False
    with open_binary(path) as file, open_binary(other_path) as other_file:
        file.seek(header.begin + entry.begin)
        other_file.seek(other_header.begin + other_entry.begin)
        return _same_bytes(file, other_file, entry.end - entry.begin)


def _kind(entry: Entry) -> tuple[str, tuple[int, ...]]:
    return entry.dtype, entry.shape


def _same_bytes(one: Any, other: Any, left: int) -> bool:
    """Return whether the next ``left`` bytes of two open files are equal; stop at the first
    difference.
    """
    while left:
        size = min(left, _BLOCK_BYTES)
        if one.read(size) != other.read(size):
            return False
        left -= size
    return True
