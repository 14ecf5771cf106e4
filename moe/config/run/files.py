"""The directories a run reads and writes."""

from pydantic import Field

from moe.config.run.section import Location, Section


class ModelSection(Section):
    """The checkpoint that training starts from, a Hugging Face directory."""

    path: Location


class DataSection(Section):
    """Token shards made by ``raymoe tokenize``."""

    path: Location
    seed: int = Field(default=0, ge=0)
    """Seeds the order of the training sequences."""


class CheckpointSection(Section):
    """Where the run leaves its results."""

    path: Location
    every: int = Field(default=0, ge=0)
    """Steps between checkpoints; 0 writes only the last."""
    keep: int = Field(default=2, gt=0)
