"""The rows of a pass: new tokens of several sequences, one after the other.

A sequence's keys and values lie in blocks of ``BLOCK`` positions anywhere in the memory of a rank;
its table lists the blocks in the order of its positions. A *place* is a position in that memory.
Blocks that follow each other there are read as one run.

    table of a sequence   7 8 9 | 2          positions 0..47 and 48..63
    its runs              (112, 160) (32, 48)

Shapes: T rows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from moe.nn.inference.adapters import Spans, spans_of
from moe.nn.router import Routing

if TYPE_CHECKING:
    from moe.nn.inference.pieces import Piece

BLOCK = 16
"""Positions of a block."""

GONE = -1
"""In the table, a block that a sliding window has left behind."""

Run = tuple[int, int]
"""Places ``[start, stop)``."""

Watch = Callable[[int, Routing], None]
"""Is called with the number of a layer and how its router has routed the rows."""


@dataclass(frozen=True, slots=True)
class Segment:
    """The rows ``[start, stop)`` of a pass: new positions of one sequence, from ``position`` on.

    ``table`` has the blocks of all its positions, the new ones among them. ``adapter`` 0 is the
    model itself. The positions before ``prompt`` are those of the prompt; None: all of them.
    """

    start: int
    stop: int
    position: int
    table: Sequence[int]
    adapter: int = 0
    prompt: int | None = None

    @property
    def prompt_end(self) -> int:
        """Where the prompt ends, or the new positions where all of them are of it."""
        return self.end if self.prompt is None else self.prompt

    @property
    def count(self) -> int:
        """Number of new positions."""
        return self.stop - self.start

    @property
    def end(self) -> int:
        """Number of positions that the sequence has after the pass."""
        return self.position + self.count

    def places(self, start: int, stop: int) -> Iterator[int]:
        """Yield the places of the positions ``[start, stop)``."""
        for position in range(start, stop):
            block, offset = divmod(position, BLOCK)
            yield self.table[block] * BLOCK + offset

    def runs(self, start: int, stop: int) -> tuple[Run, ...]:
        """Return the places of the positions ``[start, stop)`` as the fewest runs."""
        found: list[Run] = []
        while start < stop:
            block, offset = divmod(start, BLOCK)
            count = min(BLOCK - offset, stop - start)
            place = self.table[block] * BLOCK + offset
            if found and found[-1][1] == place:
                found[-1] = (found[-1][0], place + count)
            else:
                found.append((place, place + count))
            start += count
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Rows:
    """All segments of a pass, with what every layer needs of them.

    ``positions`` [T] count within each sequence, ``places`` [T] are where keys and values go.
    ``tokens`` [T] are there on shares that need them. ``spans`` are the rows that use adapters.
    ``watch`` is told what every router does, where somebody wants to know. ``pieces`` are the rows
    whose experts are merged alike, of a model that merges them.
    """

    segments: tuple[Segment, ...]
    positions: Tensor
    places: Tensor
    tokens: Tensor | None = None
    spans: Spans = ()
    watch: Watch | None = None
    pieces: "tuple[Piece, ...]" = ()

    @classmethod
    def of(
        cls,
        segments: Sequence[Segment],
        tokens: Sequence[int] | None = None,
        device: torch.device | str = "cpu",
    ) -> "Rows":
        """Return the rows of segments, which begin one where the other stops."""
        positions = [at for each in segments for at in range(each.position, each.end)]
        places = [at for each in segments for at in each.places(each.position, each.end)]
        return cls(
            tuple(segments),
            torch.tensor(positions, device=device),
            torch.tensor(places, device=device),
            None if tokens is None else torch.tensor(tokens, device=device),
            spans_of((each.adapter, each.count) for each in segments),
        )
