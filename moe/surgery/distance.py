"""How far the logits of two models lie apart, one layer of each in memory at a time."""

from dataclasses import dataclass, replace
from math import isfinite

import torch
from torch import Tensor

from moe.checkpoint.reader import Checkpoint
from moe.config.share import Share, whole
from moe.nn.build import build

_LEAST = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, slots=True)
class LogitDistance:
    """Over the same tokens: largest and mean absolute difference, and equal first choices.

    ``relative`` is the largest difference over the largest logit: a float32 sum of many layers
    cannot agree better than some 1e-6 of it.
    """

    tokens: int
    max_absolute: float
    relative: float
    mean_absolute: float
    same_argmax: float

    @property
    def finite(self) -> bool:
        """False where either model computed what is no number."""
        return isfinite(self.max_absolute) and isfinite(self.relative)


def logit_distance(first: Checkpoint, second: Checkpoint, tokens_BS: Tensor) -> LogitDistance:
    """Compare the logits of two models on the same tokens, in float32."""
    one, other = streamed_logits(first, tokens_BS), streamed_logits(second, tokens_BS)
    gap = (one - other).abs()
    return LogitDistance(
        tokens=tokens_BS.numel(),
        max_absolute=gap.max().item(),
        relative=(gap.max() / one.abs().max().clamp(min=_LEAST)).item(),
        mean_absolute=gap.mean().item(),
        same_argmax=(one.argmax(-1) == other.argmax(-1)).float().mean().item(),
    )


@torch.no_grad()
def streamed_logits(checkpoint: Checkpoint, tokens_BS: Tensor) -> Tensor:
    """Return the logits [B, S, V], reading and dropping one layer after the other."""
    config = checkpoint.config
    x = tokens_BS
    for layer in range(config.layers):
        share = replace(_only(whole(config), layer), embedding=layer == 0)
        x = build(config, checkpoint.read, share)(x).values
    end = Share((0, 0), False, True, (0, config.kv_heads), (0, config.ffn_size), ())
    logits_BSV: Tensor = build(config, checkpoint.read, end)(x).values
    return logits_BSV


def _only(share: Share, layer: int) -> Share:
    return replace(share, layers=(layer, layer + 1), embedding=False, head=False)
