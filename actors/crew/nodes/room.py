"""A node of a cluster as a place for actors: what it has, and what of it is free now. A value."""

from collections.abc import Mapping
from dataclasses import dataclass, field

Amounts = Mapping[str, float]
"""How much of each resource, in Ray's names and units."""


@dataclass(frozen=True, slots=True)
class Room:
    """One living node: ``total`` when idle, ``free`` now. Plans know it by any of ``names``."""

    id: str
    names: tuple[str, ...]
    total: Amounts
    free: Amounts
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name that no other node has."""
        return self.names[0]
