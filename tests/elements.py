"""Which elements of a whole tensor a range has, by the numbers of a real array."""

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moe.config.ranges import TensorRange

Elements = NDArray[Any]


def elements_of(own: TensorRange) -> Elements:
    """Return the numbers of the elements of a range, in the order in which they lie in memory."""
    part = own.part
    numbers = np.arange(prod(part.shape)).reshape(part.shape)
    if part.dim is not None:
        numbers = numbers.take(range(part.start, part.stop), axis=part.dim)
    return numbers.reshape(-1)[own.start : own.stop]
