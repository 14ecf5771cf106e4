"""The loss of two models on text that neither was made with, and how far their logits are apart.

Both are computed from their files (``moe.surgery.streamed``); logits exist for some tokens at a
time. Shapes: B batch, S sequence, D hidden, T tokens, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from moe.checkpoint.reader import Checkpoint
from moe.errors import CheckpointError
from moe.nn.loss import IGNORED, cross_entropy_sum, rows_at_once
from moe.surgery.distance import LogitDistance, logit_distance
from moe.surgery.streamed import advance, by_rows, embedded, final_normed, head_weight


@dataclass(frozen=True, slots=True)
class Text:
    """Tokens and labels, both [B, S], and the name of their directory; a label of -100 does not
    count.
    """

    source: str
    tokens: Tensor
    labels: Tensor


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Mean losses in nats per token, and the distance of the logits, on ``tokens`` predictions."""

    source: str
    tokens: int
    loss_before: float
    loss_after: float
    distance: LogitDistance


@torch.no_grad()
def normed_states(checkpoint: Checkpoint, tokens_BS: Tensor) -> Tensor:
    """Return what the head multiplies, [T, D]."""
    x_BSD = embedded(checkpoint, tokens_BS)
    for layer in range(checkpoint.config.layers):
        x_BSD = advance(checkpoint, layer, tokens_BS, x_BSD)
    return final_normed(checkpoint, x_BSD).flatten(0, 1)


@torch.no_grad()
def held_out(before: Checkpoint, after: Checkpoint, text: Text) -> HeldOut:
    """Compare two models with one vocabulary on a text."""
    models = [(normed_states(each, text.tokens), head_weight(each)) for each in (before, after)]
    labels_T = text.labels.flatten()
    step = rows_at_once(before.config.vocab_size)
    losses, distances = torch.zeros(2, dtype=torch.float64), list[LogitDistance]()
    for start in range(0, len(labels_T), step):
        labels_R = labels_T[start : start + step]
        logits = [by_rows(x_TD[start : start + step], head) for x_TD, head in models]
        for number, logits_RV in enumerate(logits):
            losses[number] += cross_entropy_sum(logits_RV[None], labels_R[None])
        distances.append(logit_distance(*logits))
    count = int((labels_T != IGNORED).sum())
    if not count:
        raise CheckpointError(f"no label of {text.source} counts; give longer documents")
    loss_before, loss_after = (losses / count).tolist()
    return HeldOut(text.source, count, loss_before, loss_after, _joined(distances))


def _joined(parts: list[LogitDistance]) -> LogitDistance:
    """Return the distance over the tokens of all parts; ``relative`` is the largest of theirs."""
    total = sum(part.tokens for part in parts)
    return LogitDistance(
        tokens=total,
        max_absolute=max(part.max_absolute for part in parts),
        relative=max(part.relative for part in parts),
        mean_absolute=sum(part.mean_absolute * part.tokens for part in parts) / total,
        same_argmax=sum(part.same_argmax * part.tokens for part in parts) / total,
    )
