"""A text in windows that overlap, so that tokens are predicted with much before them.

The recipe of transformers' page on the perplexity of models with a fixed length: a window moves
over the text by a stride, and of each window only the tokens count that no window before has
predicted. With a stride of half the window, every token but the first ones has at least half a
window before it.

    window 6, stride 2      0 1 2 3 4 5
                                2 3 4 5 6 7        6 and 7 count
                                    4 5 6 7 8 9    8 and 9 count
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, islice

import numpy as np

from moe.errors import ConfigError
from pipelines.corpus.shards import IGNORED, TokenShards
from pipelines.models.scoring.pieces import Piece


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens of a window, and by how many tokens it moves."""

    size: int
    stride: int

    def __post_init__(self) -> None:
        if self.size < 2 or not 1 <= self.stride <= self.size:
            raise ConfigError(
                f"a window of {self.size} tokens that moves by {self.stride}: give a window of 2 "
                "tokens or more, and a stride from 1 to the window"
            )


@dataclass(frozen=True, slots=True)
class Span:
    """The tokens ``[start, stop)`` of a text, of which those from ``first`` on count."""

    start: int
    stop: int
    first: int


def spans(tokens: int, window: Window) -> Iterator[Span]:
    """Yield the windows over a text of so many tokens."""
    done = 0
    for start in range(0, tokens, window.stride):
        stop = min(start + window.size, tokens)
        yield Span(start, stop, done)
        done = stop
        if stop == tokens:
            return


def windows(shards: TokenShards, rows: int, window: Window, batch: int) -> Iterator[Piece]:
    """Yield the windows over the first rows of a split, read as one text; so many at a time.

    The first token of a document is not predicted from the document before it.
    """
    length = shards.sequence_length
    for _, alike in groupby(spans(rows * length, window), lambda span: span.stop - span.start):
        while several := list(islice(alike, batch)):
            pieces = [_piece(shards, span) for span in several]
            yield Piece(*(np.stack(parts) for parts in zip(*pieces, strict=True)))


def _piece(shards: TokenShards, span: Span) -> Piece:
    tokens, labels = shards.stretch(span.start, span.stop)
    after = np.arange(span.start + 1, span.stop + 1)
    labels[after < span.first] = IGNORED
    return Piece(tokens, labels, after // shards.sequence_length)
