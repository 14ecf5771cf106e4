"""Text as tokens: what methods measure on, and what results are judged on."""

from dataclasses import dataclass

from torch import Tensor

from moe.errors import DataError
from moe.nn.loss import IGNORED
from moe.surgery.calibration import Calibration


@dataclass(frozen=True, slots=True)
class Text(Calibration):
    """Tokens with their labels, both [sequences, positions]; a label of -100 does not count."""

    labels: Tensor

    @property
    def predictions(self) -> int:
        """Number of labels that count; DataError if there is none."""
        found = int((self.labels != IGNORED).sum())
        if not found:
            raise DataError(
                f"no label of {self.source} counts, so there is nothing to predict; tokenize "
                "longer documents"
            )
        return found


@dataclass(frozen=True, slots=True)
class Texts:
    """Text of the training split, on which methods measure, and of the held-out split, on which the
    models before and after are compared.
    """

    calibration: Text
    held_out: Text
