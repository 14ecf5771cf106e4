"""What one arm recorded: a line a step, and what its model was found to be now and then."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import TypeAdapter

from moe.errors import DataError

TAIL = 0.05
"""The last part of a run over which its training loss and drop rates are averaged."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step: the loss in nats per token; by layer, in their order: drop rate, coefficient and
    sharpness (the mean ratio of the two largest scores).
    """

    loss: float
    drops: tuple[float, ...] = ()
    coefficients: tuple[float, ...] = ()
    sharpness: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Look:
    """A model after ``tokens`` tokens: held-out loss; by layer: similarity of its experts (mean
    cosine), sharpness of its router and the share of its busiest expert over the mean.
    """

    tokens: int
    loss: float
    similarity: tuple[float, ...] = ()
    sharpness: tuple[float, ...] = ()
    imbalance: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """All of an arm; ``seconds`` is the time of its training steps."""

    name: str
    seed: int
    tokens_a_step: int
    parameters: int
    active: int
    seconds: float
    steps: tuple[Step, ...]
    looks: tuple[Look, ...]

    @property
    def final(self) -> Look:
        """The look at the end."""
        return self.looks[-1]

    @property
    def tail(self) -> tuple[Step, ...]:
        """The steps at the end over which numbers that jump are averaged."""
        return self.steps[-max(1, round(len(self.steps) * TAIL)) :]

    @property
    def training_loss(self) -> float:
        """Mean loss of the last steps."""
        return fmean(step.loss for step in self.tail)

    @property
    def drop_rate(self) -> float:
        """Mean drop rate of the last steps and all layers."""
        return fmean(fmean(step.drops) for step in self.tail)

    def at(self, part: float) -> Look:
        """Return the look after a part of the budget."""
        total = self.looks[-1].tokens
        return min(self.looks, key=lambda look: abs(look.tokens - part * total))


_RECORD: TypeAdapter[Record] = TypeAdapter(Record)


def write_record(path: Path, record: Record) -> None:
    """Write a record; it is there whole or not at all."""
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(asdict(record)))
    partial.replace(path)


def read_record(path: Path) -> Record:
    """Read a record; DataError names a file that is damaged."""
    try:
        return _RECORD.validate_json(path.read_bytes())
    except ValueError as error:
        raise DataError(
            f"{path} does not hold the record of an arm; delete its folder, and the study runs the "
            f"arm again ({error})"
        ) from None


def curve(records: Sequence[Record], value: Any) -> list[tuple[float, float]]:
    """Return the mean of a value of looks, over seeds, by tokens."""
    looks = zip(*(record.looks for record in records), strict=True)
    return [(float(some[0].tokens), fmean(map(value, some))) for some in looks]
