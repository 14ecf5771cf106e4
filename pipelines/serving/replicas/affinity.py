"""Which replica has computed a prompt that begins like this one."""

from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from typing import Generic, TypeVar

R = TypeVar("R")

MOST_NAMES = 200_000
"""Beginnings that are remembered, some 40 MB; the ones used least recently go first."""


class Affinity(Generic[R]):
    """Remembers by the name of each beginning who was sent a prompt that begins so."""

    def __init__(self, most: int = MOST_NAMES) -> None:
        self._most = most
        self._whose: OrderedDict[bytes, set[R]] = OrderedDict()

    def note(self, beginnings: Sequence[bytes], replica: R) -> None:
        """Note that a replica was sent a prompt with these beginnings."""
        for name in beginnings:
            self._whose.setdefault(name, set()).add(replica)
            self._whose.move_to_end(name)
        while len(self._whose) > self._most:
            self._whose.popitem(last=False)

    def find(self, beginnings: Sequence[bytes], living: Collection[R]) -> set[R]:
        """Return the living replicas that were sent the longest of these beginnings."""
        for name in reversed(beginnings):
            there = self._whose.get(name)
            if there is None:
                continue
            there.intersection_update(living)
            if there:
                return set(there)
            del self._whose[name]
        return set()


def preferred(
    found: Collection[R], living: Collection[R], load: Callable[[R], int], slack: int
) -> R | None:
    """Return which of the replicas ``found`` is to answer, or None where all have too much to do.

    The one with the least to do of them, unless it has ``slack`` requests more than another has.
    """
    best = min(found, key=load, default=None)
    if best is None or load(best) > min(map(load, living)) + slack:
        return None
    return best
