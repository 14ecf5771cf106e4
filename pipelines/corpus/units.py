"""Token ids of documents in one flat file, with an index in memory of about 100 bytes a document.

A corpus is read and encoded once. The split then sees all documents at once, and memory stays small
for a corpus of any size.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int32]
Marks = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A document as tokens; ``counted`` has a 1 for each token whose prediction counts.

    None: all count.
    """

    tokens: Tokens
    counted: Marks | None = None

    @property
    def predictions(self) -> int:
        """Number of labels that count; the first token has none before it to predict it."""
        if self.counted is None:
            return max(len(self.tokens) - 1, 0)
        return int(self.counted[1:].sum())

    @property
    def marked(self) -> Tokens:
        """The tokens whose prediction counts."""
        return self.tokens if self.counted is None else self.tokens[self.counted == 1]


@dataclass(frozen=True, slots=True)
class Unit:
    """What stays together in the split and in a row: a document, or the two of a pair."""

    domain: str
    documents: tuple[Encoded, ...]
    lot: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A unit in the flat files: where it begins, the length of each document, its domain and its
    random lot.
    """

    start: int
    sizes: tuple[int, ...]
    domain: int
    lot: int

    @property
    def tokens(self) -> int:
        """Tokens of all its documents."""
        return sum(self.sizes)


class FlatFiles:
    """The files of tokens and of marks; the second is there only where not every token counts."""

    def __init__(self, directory: Path, marked: bool) -> None:
        self._tokens = directory / "tokens.bin"
        self._marks = directory / "counted.bin" if marked else None
        self.domains: list[str] = []
        self.entries: list[Entry] = []

    def write(self, units: Iterable[Unit]) -> Iterator[int]:
        """Write all units; yield how many tokens have been written after each."""
        numbers: dict[str, int] = {}
        written = 0
        marks = None if self._marks is None else self._marks.open("wb")
        try:
            with self._tokens.open("wb") as tokens:
                for unit in units:
                    sizes = tuple(len(document.tokens) for document in unit.documents)
                    domain = numbers.setdefault(unit.domain, len(numbers))
                    self.entries.append(Entry(written, sizes, domain, unit.lot))
                    for document in unit.documents:
                        tokens.write(document.tokens.tobytes())
                        if marks is not None:
                            marks.write(_marks_of(document).tobytes())
                    written += sum(sizes)
                    yield written
        finally:
            self.domains = [*numbers]
            if marks is not None:
                marks.close()

    def read(self, entries: Iterable[Entry]) -> Iterator[tuple[Entry, Tokens, Marks | None]]:
        """Yield tokens and marks of units, those of all documents of a unit in one array."""
        tokens = np.memmap(self._tokens, dtype=np.int32, mode="r")
        marks = None if self._marks is None else np.memmap(self._marks, dtype=np.uint8, mode="r")
        for entry in entries:
            own = slice(entry.start, entry.start + entry.tokens)
            yield entry, tokens[own], None if marks is None else marks[own]

    def remove(self) -> None:
        """Remove the files."""
        self._tokens.unlink()
        if self._marks is not None:
            self._marks.unlink()


def lot_of(text: str, seed: int) -> int:
    """Return the lot of a unit: it depends on the text and the seed alone."""
    digest = hashlib.blake2b(f"{seed}:{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _marks_of(document: Encoded) -> Marks:
    if document.counted is None:
        return np.ones(len(document.tokens), dtype=np.uint8)
    return document.counted
