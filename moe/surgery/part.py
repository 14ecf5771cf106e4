"""One feed-forward of the new model, as a cut of the dense one.

A feed-forward is ``down(silu(gate x) * (up x))``. Its column j is row j of gate, row j of up and
column j of down, so feed-forwards over disjoint columns add up to the one over all of them. Every
method of upcycling comes down to this: for each expert which columns, times what, changed how.
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
    """Which columns (numbers; None is all), how much the output is multiplied by, what changes."""

    columns: Tensor | None = None
    gain: float = 1.0
    change: Change | None = None

    def times(self, factor: float) -> "Part":
        """Return the same part with its output multiplied."""
        return replace(self, gain=self.gain * factor)

    def copies(self, role: Role) -> bool:
        """Tell whether the blocks are the dense weight itself, and take no memory."""
        whole = self.columns is None and self.change is None
        return whole and (self.gain == 1.0 or role.part != "down")

    def blocks(self, role: Role, weight: Tensor, seed: torch.Generator) -> Iterator[Tensor]:
        """Yield this part of a dense weight block of rows by block, in the weight's type.

        ``role`` is that in the new model; the gain falls to the down projection alone.
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
    """What becomes of the feed-forward of one layer."""

    experts: tuple[Part, ...]
    shared: Part | None = None
