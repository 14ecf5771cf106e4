"""Checks token numbers on the host: a GPU that looks up a wrong one is lost to its process."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from moe.errors import RaymoeError


def check_token_numbers(
    numbers: ArrayLike,
    vocabulary: int,
    refusal: Callable[[str], RaymoeError],
    ignored: int | None = None,
) -> None:
    """Raise ``refusal`` unless all numbers are in a vocabulary of this size, or ``ignored``."""
    given = np.asarray(numbers)
    if not given.size or (given.min() >= 0 and given.max() < vocabulary):
        return
    unknown = given[(given < 0) | (given >= vocabulary)]
    unknown = unknown if ignored is None else unknown[unknown != ignored]
    if unknown.size:
        raise refusal(
            f"token {unknown[0]} is not in the vocabulary of {vocabulary} tokens (0 to "
            f"{vocabulary - 1}); make tokens with the tokenizer of this model"
        )
