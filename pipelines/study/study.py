"""One study: the question, the arms it needs, and what they say."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipelines.study.arm import Arm
from pipelines.study.findings import Findings
from pipelines.study.lab import Lab


@dataclass(frozen=True, slots=True)
class Asked:
    """How much a study may take: ``tokens`` an arm, and how many ``seeds``."""

    tokens: int
    seeds: int

    @property
    def numbers(self) -> range:
        """The seeds."""
        return range(self.seeds)


@dataclass(frozen=True, slots=True)
class Study:
    """``arms`` lists every run of the study for what is asked; ``findings`` reads their records.

    ``tokens`` and ``seeds`` are what is asked unless told otherwise: under an hour on two cores.
    """

    name: str
    title: str
    tokens: int
    seeds: int
    arms: Callable[[Asked], Sequence[Arm]]
    findings: Callable[[Lab, Asked], Findings]
