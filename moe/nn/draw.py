"""The choice of one token: what it depends on beside the logits."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe.config.sampling import Sampling


@dataclass(frozen=True, slots=True)
class Draw:
    """One token to choose, at ``position`` of its sequence.

    ``prompt`` and ``generated`` are read by the penalties alone. ``allowed`` is a bit mask over the
    vocabulary, the lowest bit of the first word for token 0; a set bit allows the token.
    """

    sampling: Sampling
    position: int
    prompt: Sequence[int] = ()
    generated: Sequence[int] = ()
    allowed: NDArray[np.int32] | None = None

    @property
    def plain(self) -> bool:
        """Whether the likeliest token of the model is all that is asked for."""
        return self.allowed is None and self.sampling.plain
