"""Lays tokenized documents into rows of one length: cut, packed whole, or one a row."""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.corpus.manifest import Packing
from pipelines.corpus.units import Entry, FlatFiles, Marks, Tokens


@dataclass(frozen=True, slots=True)
class Row:
    """``starts`` are the positions at which documents begin; ``domain`` is the domain of the first
    token. ``counted`` has a 1 for each token whose prediction counts, and ``used`` is the number of
    tokens that are no padding; None for rows that are cut out of a text, where all do and are.
    """

    tokens: Tokens
    starts: tuple[int, ...]
    domain: int
    counted: Marks | None = None
    used: int | None = None


def rows_of(
    flat: FlatFiles, entries: Sequence[Entry], length: int, packing: Packing, filler: int
) -> Iterator[Row]:
    """Yield the rows of some units; ``filler`` is the token of padding."""
    if packing == "cut":
        yield from cut(((tokens, entry.domain) for entry, tokens, _ in flat.read(entries)), length)
        return
    bins = [[number] for number in range(len(entries))]
    if packing == "packed":
        bins = packed([entry.tokens for entry in entries], length)
    for numbers in bins:
        yield _row(flat, [entries[number] for number in numbers], length, filler)


def cut(documents: Iterable[tuple[Tokens, int]], length: int) -> Iterator[Row]:
    """Concatenate (tokens, domain) documents and cut rows; an incomplete last row is dropped."""
    row = np.empty(length, dtype=np.int32)
    starts: list[int] = []
    filled = first_domain = 0
    for tokens, domain in documents:
        starts.append(filled)
        taken = 0
        while taken < len(tokens):
            if filled == 0:
                first_domain = domain
            count = min(length - filled, len(tokens) - taken)
            row[filled : filled + count] = tokens[taken : taken + count]
            taken, filled = taken + count, filled + count
            if filled == length:
                yield Row(row, tuple(starts), first_domain)
                row = np.empty(length, dtype=np.int32)
                starts.clear()
                filled = 0


def packed(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Return the numbers of the units of each row: the longest first, each into the fullest row
    that has room for it (best-fit decreasing).

    No size is above ``length``.
    """
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []
    for number in sorted(range(len(sizes)), key=lambda each: (-sizes[each], each)):
        size = sizes[number]
        place = bisect_left(free, (size, -1))
        if place == len(free):
            rows.append([number])
            room, row = length, len(rows) - 1
        else:
            room, row = free.pop(place)
            rows[row].append(number)
        if room > size:
            insort(free, (room - size, row))
    return rows


def _row(flat: FlatFiles, entries: Sequence[Entry], length: int, filler: int) -> Row:
    """Return the row of some units, padded at the end."""
    tokens = np.full(length, filler, dtype=np.int32)
    counted = np.zeros(length, dtype=np.uint8)
    starts: list[int] = []
    filled = 0
    for entry, own, marks in flat.read(entries):
        tokens[filled : filled + entry.tokens] = own
        counted[filled : filled + entry.tokens] = 1 if marks is None else marks
        for size in entry.sizes:
            starts.append(filled)
            filled += size
    return Row(tokens, tuple(starts), entries[0].domain, counted, filled)
