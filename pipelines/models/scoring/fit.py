"""How much of a prompt a model reads, and the memory that prompts and answers need."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from actors.commands import Answering
from moe.checkpoint.reader import Checkpoint
from moe.nn.inference.rows import BLOCK
from pipelines.serving.batching.batcher import Room
from pipelines.serving.text.text import Text

TOKENS = 8192
"""Tokens of a prompt and its answer, of a model that takes more, unless asked otherwise."""


@dataclass(frozen=True, slots=True)
class Fit:
    """The tokenizer of a model, and at most how many tokens it reads; ``room`` is that of one
    stage.
    """

    text: Text
    length: int
    room: Room

    @classmethod
    def of(cls, model: Path, length: int | None, together: int) -> Self:
        """Return that of a model directory, for so many prompts together.

        The last token of a text that is scored is one more than the model reads.
        """
        config = Checkpoint.open(model).config
        most = min(length or TOKENS, config.max_positions)
        blocks = together * (-(-(most + 1) // BLOCK) + 1)
        return cls(Text.open(model), most, Room(blocks, together, config.sliding_window).over(1))

    @property
    def how(self) -> Answering:
        """How the engine answers."""
        return Answering(self.room.blocks)
