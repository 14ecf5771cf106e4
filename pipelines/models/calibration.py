"""Text that an upcycling looks at, from a directory that ``raymoe tokenize`` wrote."""

from pathlib import Path

import torch

from moe.checkpoint.reader import Checkpoint
from moe.surgery.calibration import Calibration
from pipelines.corpus.inputs import open_shards

TOKENS = 2048
"""Enough to tell columns apart: a column is described by what it answers to each of them."""


def calibration_from(model: Path, data: Path) -> Calibration:
    """Return rows spread over the training split, some 2,048 tokens."""
    shards = open_shards(model, Checkpoint.open(model).config, data, "train")
    count = min(len(shards), max(1, TOKENS // shards.sequence_length))
    rows = [number * len(shards) // count for number in range(count)]
    return Calibration(data.resolve().name, torch.from_numpy(shards.batch(rows).tokens).long())
