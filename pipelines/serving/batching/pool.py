"""The blocks of keys and values: which are free, in use, or kept because a prompt may begin alike.

A block in use may have several users, all of which only read it. A block that nobody uses any more
is kept under its name until its memory is needed; of these, the one that was used least recently
goes first.

Blocks that follow each other are read faster than others, so a sequence gets the block after its
last one where that is free, and a new sequence begins in the middle of the largest gap: the
sequence before the gap then has room to grow as well.
"""

import re
from collections import OrderedDict
from collections.abc import Hashable

_FREE, _KEPT, _USED = 0, 1, 2
_GAPS = re.compile(rb"\x00+")


class Pool:
    """``blocks`` blocks, numbered from 0."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self._states = bytearray(blocks)
        self._users = [0] * blocks
        self._free = blocks
        self._kept: OrderedDict[int, None] = OrderedDict()
        self._named: dict[Hashable, int] = {}
        self._names: dict[int, Hashable] = {}

    @property
    def available(self) -> int:
        """Number of blocks that can be taken."""
        return self._free + len(self._kept)

    @property
    def used(self) -> int:
        """Number of blocks in use."""
        return self.blocks - self.available

    def take(self, after: int | None = None) -> int:
        """Take a block for one user, the one after ``after`` if it is free.

        IndexError where none is available.
        """
        block = self._chosen(after)
        if self._states[block] == _FREE:
            self._free -= 1
        else:
            self._drop(block)
        self._states[block] = _USED
        self._users[block] = 1
        return block

    def find(self, name: Hashable) -> int | None:
        """Return the block of a name, if it is still there, without using it."""
        return self._named.get(name)

    def share(self, block: int) -> None:
        """Add a user to a block in use or kept."""
        if self._states[block] == _KEPT:
            del self._kept[block]
            self._states[block] = _USED
        self._users[block] += 1

    def name(self, block: int, name: Hashable) -> None:
        """Say what a block in use holds; the first block of a name keeps it."""
        if name not in self._named and block not in self._names:
            self._named[name] = block
            self._names[block] = name

    def forget(self) -> None:
        """Forget what all blocks hold; those that nobody uses are free."""
        for block in self._kept:
            self._states[block] = _FREE
        self._free += len(self._kept)
        self._kept.clear()
        self._named.clear()
        self._names.clear()

    def give_back(self, block: int) -> None:
        """Take away a user; a block without users is kept if it has a name, else free."""
        self._users[block] -= 1
        if self._users[block]:
            return
        if block in self._names:
            self._states[block] = _KEPT
            self._kept[block] = None
        else:
            self._states[block] = _FREE
            self._free += 1

    def _chosen(self, after: int | None) -> int:
        if after is not None and after + 1 < self.blocks and self._states[after + 1] == _FREE:
            return after + 1
        if self._free:
            return self._in_largest_gap()
        if self._kept:
            return next(iter(self._kept))
        raise IndexError("no block is available")

    def _in_largest_gap(self) -> int:
        gaps = (found.span() for found in _GAPS.finditer(self._states))
        start, stop = max(gaps, key=lambda gap: gap[1] - gap[0])
        return start if start == 0 else (start + stop) // 2

    def _drop(self, block: int) -> None:
        """Forget what a kept block holds."""
        del self._kept[block]
        del self._named[self._names.pop(block)]
