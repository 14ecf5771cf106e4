"""Text for an upcycling, from a directory that ``raymoe tokenize`` wrote."""

from pathlib import Path

import torch

from moe.checkpoint.reader import Checkpoint
from moe.surgery.calibration import Calibration
from moe.surgery.growing.texts import Texts
from moe.surgery.held_out import Text
from pipelines.corpus.inputs import open_shards
from pipelines.corpus.manifest import Split

TOKENS = 2048
"""Number of tokens. The activations on these tokens describe a column well enough."""


def calibration_from(model: Path, data: Path) -> Calibration:
    """Return about 2,048 tokens in rows spread evenly over the training split."""
    text = text_from(model, data, "train")
    return Calibration(text.source, text.tokens)


def texts_from(model: Path, data: Path) -> Texts:
    """Return about 2,048 tokens of the training split, and as many of the held-out split."""
    return Texts(text_from(model, data, "train"), text_from(model, data, "held_out"))


def text_from(model: Path, data: Path, split: Split) -> Text:
    """Return about 2,048 tokens and their labels in rows spread evenly over a split."""
    shards = open_shards(model, Checkpoint.open(model).config, data, split)
    count = min(len(shards), max(1, TOKENS // shards.sequence_length))
    batch = shards.batch([number * len(shards) // count for number in range(count)])
    tokens, labels = (torch.from_numpy(each).long() for each in (batch.tokens, batch.labels))
    return Text(data.resolve().name, tokens, labels)
