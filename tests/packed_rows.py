"""Rows that several documents share, with padding, for tests of all sizes."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from actors.commands import StepInput

Sizes = Sequence[Sequence[int]]


def numbers(sizes: Sizes, length: int) -> npt.NDArray[np.int32]:
    """Return the number of the document of each position, by the lengths of those of each row."""
    found = np.full((len(sizes), length), -1, dtype=np.int32)
    for row, own in zip(found, sizes, strict=True):
        row[: sum(own)] = np.repeat(np.arange(len(own)), own)
    return found


def step_input(step: int, sizes: Sizes, length: int, vocabulary: int) -> StepInput:
    """Return random tokens in documents of given lengths; about half of the labels count."""
    generator = np.random.default_rng(step)
    documents = numbers(sizes, length)
    tokens = generator.integers(0, vocabulary, documents.shape, dtype=np.int32)
    labels = np.roll(tokens, -1, axis=1)
    inside = (documents == np.roll(documents, -1, axis=1)) & (documents >= 0)
    inside[:, -1] = False
    labels[~inside | (generator.random(labels.shape) < 0.5)] = -100
    return StepInput(step, tokens, labels, int((labels != -100).sum()), documents)


def drawn_sizes(seed: int, rows: int, length: int) -> list[list[int]]:
    """Return random lengths of documents for some rows: some full, some with padding."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(rows):
        own: list[int] = []
        while sum(own) < length and (not own or generator.random() < 0.8):
            own.append(int(generator.integers(1, length - sum(own) + 1)))
        found.append(own)
    return found
