"""One feed-forward of the new model, as a cut of the dense feed-forward.

A feed-forward is ``down(silu(gate x) * (up x))``. Its column j is row j of gate, row j of up and
column j of down, so feed-forwards over disjoint columns add up to the feed-forward over all of
them. Every method of upcycling chooses for each expert its columns, a factor and a change.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from moe.config.role import Role
from moe.surgery.blocks import chosen
from moe.surgery.change import Change


@dataclass(frozen=True, slots=True)
class Part:
    """The columns (numbers; None: all), the factor of the output, and the change."""

    columns: Tensor | None = None
    gain: float = 1.0
    change: Change | None = None

    def times(self, factor: float) -> "Part":
        """Return the same part with its output multiplied by ``factor``."""
        return replace(self, gain=self.gain * factor)

    def copies(self, role: Role) -> bool:
        """Return whether the blocks are the dense weight itself and take no memory."""
        whole = self.columns is None and self.change is None
        return whole and (self.gain == 1.0 or role.part != "down")

    def blocks(self, role: Role, weight: Tensor, seed: torch.Generator) -> Iterator[Tensor]:
        """Yield this part of a dense weight in blocks of rows, in the dtype of the weight.

        ``role`` is the role in the new model; only the down projection is multiplied by the gain.
        """
        axis, gain = (1, self.gain) if role.part == "down" else (0, 1.0)
        apply = self.change.begin(weight, axis, seed) if self.change else None
        start = 0
        for block in chosen(weight, self.columns, axis):
            values = block
            if apply is not None:
                values = apply(block.float(), start)
            if gain != 1.0:
                values = values.float() * gain
            yield values.to(weight.dtype)
            start += len(block)


class Cut(NamedTuple):
    """The parts into which the feed-forward of one layer is cut."""

    experts: tuple[Part, ...]
    shared: Part | None = None
