"""The balance state of one layer's experts between two steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class BalanceState:
    """The coefficient of the next step, and how the tokens of the last step spread over the
    experts.

    By expert: ``shares`` of the (token, expert) pairs and mean ``probabilities``; empty before the
    first step.
    """

    coefficient: float
    shares: tuple[float, ...] = ()
    probabilities: tuple[float, ...] = ()


def read_state(table: Mapping[str, Any]) -> BalanceState:
    """Return the state from a table; raises if a key is missing or not a number."""
    return BalanceState(
        coefficient=float(table["coefficient"]),
        shares=tuple(map(float, table["shares"])),
        probabilities=tuple(map(float, table["probabilities"])),
    )
