"""Losses by the plain decoder, which one process holds whole."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from actors.commands import RouterReport
from moe.errors import CheckpointError
from moe.nn.decoder import Decoder, Pass
from moe.nn.dispatch import Capacity
from moe.nn.finite import first_fault
from moe.nn.loss import cross_entropies
from moe.nn.statistics import RoutingStatistics
from pipelines.models.scoring.pieces import Measured, Piece

MEASURED = Pass(Capacity())
"""Nothing is dropped, and the routers are measured."""


class DecoderMeter:
    """Measures pieces with the decoder of a model directory.

    CheckpointError names the layer where it computes values that are not finite.
    """

    def __init__(self, model: Path, decoder: Decoder) -> None:
        self._model = model
        self._decoder = decoder

    def measure(self, pieces: Iterable[Piece]) -> Iterator[Measured]:
        """Yield what is measured of each piece."""
        for piece in pieces:
            yield self._measured(piece)

    @torch.inference_mode()
    def _measured(self, piece: Piece) -> Measured:
        output = self._decoder(torch.from_numpy(piece.tokens), MEASURED)
        losses = cross_entropies(output.values, torch.from_numpy(piece.labels)).double().numpy()
        if not np.isfinite(losses).all() or not all(map(_finite, output.statistics.values())):
            raise self._not_finite(piece)
        return Measured(
            piece, losses, {layer: _seen(each) for layer, each in output.statistics.items()}
        )

    def _not_finite(self, piece: Piece) -> CheckpointError:
        """Return the error for a model that computes NaN or infinity; the error names the first
        layer.
        """
        found = first_fault(self._decoder, torch.from_numpy(piece.tokens), MEASURED)
        where = f"; the first values that are not finite come from {found}" if found else ""
        return CheckpointError(
            f"the loss of {self._model} is not a finite number{where}; take another checkpoint, "
            "or the model from which this one was made"
        )


def _finite(found: RoutingStatistics) -> bool:
    return bool(torch.isfinite(found.probability).all())


def _seen(found: RoutingStatistics) -> RouterReport:
    return RouterReport(tuple(found.load.tolist()), found.sharpness.item())
