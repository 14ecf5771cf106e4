"""What a grammar asks of an answer, token by token."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Constraint(Protocol):
    """Follows one answer; whoever draws tokens asks it first, the generation tells it of each."""

    @property
    def finished(self) -> bool:
        """Whether the answer is complete and nothing may follow."""

    def allowed(self) -> NDArray[np.int32]:
        """Return the bit mask of the tokens that may come next."""

    def accept(self, token: int) -> None:
        """Take the token that was drawn."""
