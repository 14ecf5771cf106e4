"""What a plan is made for, as far as the speed of a device depends on it. A value; no Ray."""

from dataclasses import dataclass

from moe.config.model import ModelConfig
from moe.planning.counts.workload import NUMERICS
from moe.planning.devices.pace import PRECISIONS


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model, its micro-batches, and the number formats that the planner counts with."""

    config: ModelConfig
    sequence_length: int
    micro_batches: tuple[int, ...]
    numerics: str

    @property
    def precision(self) -> str:
        """The precision of its products."""
        return PRECISIONS[NUMERICS[self.numerics].sixteen_bit]
