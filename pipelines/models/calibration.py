"""Calibration tokens for an upcycling, from a directory that ``raymoe tokenize`` wrote."""

from pathlib import Path

import torch

from moe.checkpoint.reader import Checkpoint
from moe.surgery.calibration import Calibration
from pipelines.corpus.inputs import open_shards

TOKENS = 2048
"""Number of tokens. The activations on these tokens describe a column well enough."""


def calibration_from(model: Path, data: Path) -> Calibration:
    """Return about 2,048 tokens in rows spread evenly over the training split."""
    shards = open_shards(model, Checkpoint.open(model).config, data, "train")
    count = min(len(shards), max(1, TOKENS // shards.sequence_length))
    rows = [number * len(shards) // count for number in range(count)]
    return Calibration(data.resolve().name, torch.from_numpy(shards.batch(rows).tokens).long())
