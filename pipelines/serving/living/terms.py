"""What a server and the driver of a training run say to each other. Values."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from actors.commands import Answering, Batch, BatchOutput
from moe.config.answering import TIME_SHARE, OnNewWeights
from moe.config.model import ModelConfig
from moe.errors import RaymoeError


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a server asks of a run: memory for keys and values, and a share of its time, of 1."""

    how: Answering
    share: float = TIME_SHARE
    on_new_weights: OnNewWeights = "continue"


@dataclass(frozen=True, slots=True)
class Standing:
    """The ranks that answer: those of ``replica``, over ``stages``, after ``step`` steps.

    What they keep of sequences is good as long as ``number`` stays.
    """

    number: str
    replica: int
    stages: int
    step: int

    def keeps(self, other: "Standing", on_new_weights: OnNewWeights) -> bool:
        """Tell whether sequences begun on another standing go on with what is kept of them."""
        same = self.number == other.number
        return same and (on_new_weights == "continue" or self.step == other.step)


@dataclass(frozen=True, slots=True)
class Welcome:
    """The run lets a server in; ``tokenizer`` is the directory of the model that it began with."""

    standing: Standing
    config: ModelConfig
    tokenizer: Path


class Posted(NamedTuple):
    """A batch made for a standing, to be run next after the batch with the number ``after``.

    0 is before the first of a standing.
    """

    batch: Batch
    standing: Standing
    after: int


class Answered(NamedTuple):
    """What a batch came to."""

    output: BatchOutput


class Failed(NamedTuple):
    """A batch could not be computed; the ranks go on."""

    error: RaymoeError


class Moved(NamedTuple):
    """A batch was not run: every sequence begins anew on another standing."""

    standing: Standing


class Refused(NamedTuple):
    """The run does not answer, and says why."""

    reason: str


Fate = Answered | Failed | Moved | Refused
"""What becomes of a batch that was posted."""
