"""Which experts of a layer become one: the value that every way of shrinking decides on.

The weights of a new expert, its row of the router and its balance bias are sums of those of the old
ones, each times its share; shares sum to one. An expert that is kept is a fold of itself, one that
is pruned is in no fold.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from moe.config.model import MoeConfig
from moe.errors import ConfigError


class Fold(NamedTuple):
    """The old experts of a new one, rising, and the share of each."""

    experts: tuple[int, ...]
    shares: tuple[float, ...]

    @property
    def kept(self) -> bool:
        """Whether the new expert is an old one as it is."""
        return len(self.experts) == 1


@dataclass(frozen=True, slots=True)
class Reduction:
    """From how many experts to how many in every layer, by groups that stay groups."""

    moe: MoeConfig
    experts: int

    def __post_init__(self) -> None:
        old, groups = self.moe.experts, self.moe.groups
        if self.moe.hashed:
            raise ConfigError(
                "a hash of the token chooses its expert, and with fewer experts another one; "
                "hashed experts cannot be pruned or merged"
            )
        if self.moe.merged:
            raise ConfigError(
                "these experts are merged for segments of tokens, no token is sent to one of them, "
                "and no traffic says which to fold; they cannot be pruned or merged"
            )
        if not 1 <= self.experts < old:
            raise ConfigError(
                f"asked for {self.experts} experts of {old}; give at least 1 and fewer than {old}"
            )
        if self.experts % groups:
            raise ConfigError(
                f"asked for {self.experts} experts, which do not divide into the {groups} groups "
                f"of the model; give a multiple of {groups}"
            )
        least = -(-self.moe.top_k * groups // self.moe.top_groups)
        if self.experts < least:
            raise ConfigError(
                f"asked for {self.experts} experts but a token uses {self.moe.top_k} of "
                f"{self.moe.top_groups} of {groups} groups; give at least {least}"
            )

    def by_group(self, choose: Callable[[Sequence[int], int], list[Fold]]) -> tuple[Fold, ...]:
        """Let ``choose`` fold the experts of each group into so many."""
        size = self.moe.experts // self.moe.groups
        wanted = self.experts // self.moe.groups
        found = (
            choose(range(group * size, (group + 1) * size), wanted)
            for group in range(self.moe.groups)
        )
        return tuple(fold for folds in found for fold in sorted(folds))
