"""Text of a directory that ``raymoe tokenize`` wrote, in rows spread evenly over a split."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from moe.checkpoint.reader import Checkpoint
from moe.errors import ConfigError, DataError
from moe.surgery.text import Text, Texts
from pipelines.corpus.inputs import open_shards
from pipelines.corpus.manifest import Split
from pipelines.corpus.shards import TokenShards

TOKENS = 2048
"""Tokens of a text by which an upcycling decides: they describe a column well enough."""


def text_from(model: Path, data: Path, split: Split, rows: int) -> Text:
    """Return at most so many rows of a split."""
    if rows < 1:
        raise ConfigError(f"asked for {rows} sequences; give at least 1")
    shards = _opened(model, data, split)
    return _text(data, shards, spread(len(shards), rows))


def short_text_from(model: Path, data: Path, split: Split) -> Text:
    """Return about 2,048 tokens of a split."""
    shards = _opened(model, data, split)
    count = min(len(shards), max(1, TOKENS // shards.sequence_length))
    return _text(data, shards, [number * len(shards) // count for number in range(count)])


def short_texts_from(model: Path, data: Path) -> Texts:
    """Return about 2,048 tokens of the training split, and as many of the held-out split."""
    return Texts(short_text_from(model, data, "train"), short_text_from(model, data, "held_out"))


def spread(total: int, wanted: int | None) -> np.ndarray:
    """Return at most so many of ``total`` row numbers, spread evenly; None: all of them."""
    count = total if wanted is None else min(wanted, total)
    return np.unique(np.linspace(0, total - 1, count).astype(np.int64))


def _opened(model: Path, data: Path, split: Split) -> TokenShards:
    shards = open_shards(model, Checkpoint.open(model).config, data, split)
    packing = shards.manifest.packing
    if packing != "cut":
        raise DataError(
            f"{data} holds {shards.manifest.kind} rows that are {packing}; methods measure on text "
            "that fills its rows: give a directory that was tokenized with --packing cut"
        )
    return shards


def _text(data: Path, shards: TokenShards, rows: Sequence[int] | np.ndarray) -> Text:
    batch = shards.batch(rows)
    tokens, labels = torch.from_numpy(batch.tokens).long(), torch.from_numpy(batch.labels)
    return Text(data.resolve().name, tokens, labels)
