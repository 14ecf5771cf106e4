"""The distance between the logits of two models, computed from their files."""

from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from moe.checkpoint.reader import Checkpoint
from moe.surgery.streamed import logits

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


def logit_distance(first: Checkpoint, second: Checkpoint, tokens_BS: Tensor) -> LogitDistance:
    """Compare the logits of two models on the same tokens, in float32."""
    one, other = logits(first, tokens_BS), logits(second, tokens_BS)
    gap = (one - other).abs()
    return LogitDistance(
        tokens=tokens_BS.numel(),
        max_absolute=gap.max().item(),
        relative=(gap.max() / one.abs().max().clamp(min=_LEAST)).item(),
        mean_absolute=gap.mean().item(),
        same_argmax=(one.argmax(-1) == other.argmax(-1)).float().mean().item(),
    )
