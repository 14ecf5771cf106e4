"""The directories a run reads and writes."""

from pathlib import Path

from pydantic import Field

from moe.config.run.section import Section


class ModelSection(Section):
    """The checkpoint that training starts from, a Hugging Face directory."""

    path: Path


class DataSection(Section):
    """Token shards made by ``raymoe tokenize``."""

    path: Path
    seed: int = Field(default=0, ge=0)
    """Seeds the order of the training sequences."""


class CheckpointSection(Section):
    """Where the run leaves its results."""

    path: Path
    every: int = Field(default=0, ge=0)
    """Steps between checkpoints; 0 writes only the last."""
    keep: int = Field(default=2, gt=0)
