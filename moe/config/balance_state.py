"""What is known between two steps about the balance of one layer's experts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class BalanceState:
    """The coefficient of the next step, and how the whole last one spread over the experts.

    ``shares`` of the assignments and mean ``probabilities`` by expert; empty before the first step.
    """

    coefficient: float
    shares: tuple[float, ...] = ()
    probabilities: tuple[float, ...] = ()


def read_state(table: Mapping[str, Any]) -> BalanceState:
    """Return the state written as a table; what is missing or no number raises."""
    return BalanceState(
        coefficient=float(table["coefficient"]),
        shares=tuple(map(float, table["shares"])),
        probabilities=tuple(map(float, table["probabilities"])),
    )
