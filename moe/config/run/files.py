"""The directories a run reads and writes."""

from typing import Literal

from pydantic import Field, field_validator

from moe.config.section import LocalPath, Section
from moe.errors import StorageError
from moe.storage import Location, location

DataKind = Literal["text", "chat", "instruction", "preference"]
"""What rows are made of: documents, conversations, prompts with an answer, or pairs of answers."""


class ModelSection(Section):
    """The checkpoint that training starts from, a Hugging Face directory."""

    path: LocalPath


class DataSection(Section):
    """Token shards made by ``raymoe tokenize``."""

    path: LocalPath
    kind: DataKind = "text"
    """What the rows are made of; a run whose shards hold something else does not start."""
    seed: int = Field(default=0, ge=0)
    """Seeds the order of the training sequences."""
    sequence_length: int | None = Field(default=None, gt=0)
    """Tokens of a sequence, for whoever sizes pods without the token shards at hand; a run whose
    shards have another length does not start. Default: the length of the shards.
    """


class CheckpointSection(Section):
    """Where the run writes its results: the journal and Ray Train's files in ``path``, checkpoints
    too unless ``storage`` names another location.
    """

    path: LocalPath
    storage: str | None = None
    """A URI that ``pyarrow.fs`` knows, such as ``s3://bucket/prefix?region=eu-central-1``;
    credentials come from the environment.
    """
    every: int = Field(default=0, ge=0)
    """Steps between checkpoints; 0 writes only the last checkpoint."""
    keep: int = Field(default=2, gt=0)

    @property
    def location(self) -> Location:
        """The directory that holds the checkpoints."""
        return self.path if self.storage is None else location(self.storage)

    @field_validator("storage")
    @classmethod
    def _names_a_location(cls, storage: str | None) -> str | None:
        if storage is not None and "://" not in storage:
            raise ValueError(
                "give a URI such as s3://bucket/prefix; a local directory goes into checkpoint.path"
            )
        try:
            _ = storage and location(storage)
        except StorageError as error:
            raise ValueError(str(error)) from None
        return storage
