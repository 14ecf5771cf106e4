"""Bad routers to start from, for studies of balance losses."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from actors.state.sources import Opened, Source
from moe.config.model import ModelConfig
from moe.config.ranges import TensorRange
from moe.config.tensors import TensorSlice
from pipelines.study.arm import Spoiling

FAINT = 0.01
"""What the rows of experts that are not to be chosen are multiplied by: their logits are then near
zero.
"""


@dataclass(frozen=True, slots=True)
class SpoiledSource:
    """Another source with its routers made bad; every other tensor is as it was."""

    source: Source
    how: Spoiling

    def config(self) -> ModelConfig:
        """Return the architecture, which is the same."""
        return self.source.config()

    def open(self) -> Opened:
        """Open the other source; its routers are changed as they are read."""
        opened, spoil = self.source.open(), _WAYS[self.how]

        def weight(part: TensorSlice) -> Tensor:
            values = opened.read_weight(part)
            return spoil(values) if part.role.part == "router" else values

        def master(asked: TensorRange) -> Tensor | None:
            if asked.part.role.part != "router":
                return opened.read_master(asked)
            return spoil(opened.read_exact(asked.part)).flatten()[asked.start : asked.stop]

        return replace(opened, read_weight=weight, read_master=master)


def _paired(rows_ED: Tensor, pairs: int) -> Tensor:
    """Make the first rows pairs of opposites, and all others faint: of each pair, every token has
    one with a logit above zero.
    """
    made = rows_ED * FAINT
    for first in range(0, 2 * pairs, 2):
        made[first], made[first + 1] = rows_ED[first], -rows_ED[first]
    return made


_WAYS: dict[Spoiling, Callable[[Tensor], Tensor]] = {
    "half unused": lambda rows_ED: _paired(rows_ED, len(rows_ED) // 4),
    "two take half": lambda rows_ED: _paired(rows_ED, 1),
}
