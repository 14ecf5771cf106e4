"""The distance between the logits of two models; B batch, S sequence, V vocabulary."""

from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

_LEAST = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, slots=True)
class LogitDistance:
    """Over the same tokens: largest and mean absolute difference, and number of equal first
    choices.

    ``relative`` is the largest difference over the largest logit: a float32 sum of many layers
    cannot agree better than about 1e-6 of it.
    """

    tokens: int
    max_absolute: float
    relative: float
    mean_absolute: float
    same_argmax: float

    @property
    def finite(self) -> bool:
        """False if either model computed NaN or infinity."""
        return isfinite(self.max_absolute) and isfinite(self.relative)


def logit_distance(one_BSV: Tensor, other_BSV: Tensor) -> LogitDistance:
    """Compare the logits of two models on the same tokens, in float32."""
    gap = (one_BSV - other_BSV).abs()
    return LogitDistance(
        tokens=one_BSV[..., 0].numel(),
        max_absolute=gap.max().item(),
        relative=(gap.max() / one_BSV.abs().max().clamp(min=_LEAST)).item(),
        mean_absolute=gap.mean().item(),
        same_argmax=(one_BSV.argmax(-1) == other_BSV.argmax(-1)).float().mean().item(),
    )
