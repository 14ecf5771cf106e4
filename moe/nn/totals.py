"""What one layer's router did with a step, as numbers that add up.

Sums over micro-batches and sums over replicas are the same sums, so a step is counted once however
it is spread. Counts are exact: float64 holds whole numbers up to 2^53.

Shapes: N experts, F = 7 + 2 N.
"""

from collections.abc import Sequence
from math import isnan, nan
from typing import NamedTuple

import torch
from torch import Tensor

from moe.nn.statistics import RoutingStatistics

_PLAIN = 7


class Totals(NamedTuple):
    """Sums over the micro-batches of a step.

    ``tokens``, and ``dropped`` in tokens; ``batches``, and over them losses without coefficient and
    sharpness, None where there is no such loss; by expert, ``load`` in assignments and the summed
    probability of all tokens.
    """

    tokens: float
    dropped: float
    batches: float
    balance_loss: float
    sharpness: float
    z_loss: float | None
    device_loss: float | None
    load: tuple[int, ...]
    probability: tuple[float, ...]


def summed(batches: Sequence[RoutingStatistics]) -> Tensor:
    """Return the totals of some micro-batches as a vector [F] in float64, to be added to others."""
    return torch.stack([_vector(batch) for batch in batches]).sum(dim=0)


def totals(vector_F: Tensor) -> Totals:
    """Read a vector of totals."""
    values = vector_F.tolist()
    experts = (len(values) - _PLAIN) // 2
    tokens, dropped, batches, balance_loss, sharpness, *others = values[:_PLAIN]
    z_loss, device_loss = (None if isnan(value) else value for value in others)
    return Totals(
        tokens,
        dropped,
        batches,
        balance_loss,
        sharpness,
        z_loss,
        device_loss,
        load=tuple(int(count) for count in values[_PLAIN : _PLAIN + experts]),
        probability=tuple(values[_PLAIN + experts :]),
    )


def _vector(batch: RoutingStatistics) -> Tensor:
    tokens = batch.tokens.double()
    none = torch.full_like(tokens, nan)
    plain = [
        tokens,
        batch.drop_rate.double() * tokens,
        torch.ones_like(tokens),
        batch.balance_loss.double(),
        batch.sharpness.double(),
        none if batch.z_loss is None else batch.z_loss.double(),
        none if batch.device_loss is None else batch.device_loss.double(),
    ]
    return torch.cat([torch.stack(plain), batch.load.double(), batch.probability.double() * tokens])
