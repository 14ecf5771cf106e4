"""Tokens of a directory that ``raymoe tokenize`` wrote, in rows spread evenly over a split."""

from pathlib import Path

import numpy as np
import torch

from moe.checkpoint.reader import Checkpoint
from moe.errors import ConfigError
from moe.surgery.text import Text
from pipelines.corpus.inputs import open_shards
from pipelines.corpus.manifest import Split


def text_from(model: Path, data: Path, split: Split, rows: int) -> Text:
    """Return at most so many rows of a split."""
    if rows < 1:
        raise ConfigError(f"asked for {rows} sequences; give at least 1")
    shards = open_shards(model, Checkpoint.open(model).config, data, split)
    count = min(len(shards), rows)
    batch = shards.batch(np.linspace(0, len(shards) - 1, count).astype(np.int64))
    tokens, labels = torch.from_numpy(batch.tokens).long(), torch.from_numpy(batch.labels)
    return Text(data.resolve().name, tokens, labels)
