"""The loss of models on text that they were not made with, and how far their logits are apart.

Models are computed from their files (``moe.surgery.streamed``); logits exist for some tokens at a
time. Shapes: B batch, S sequence, D hidden, T tokens, R tokens at a time, V vocabulary.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from moe.checkpoint.reader import Checkpoint
from moe.errors import CheckpointError
from moe.nn.loss import cross_entropy_sum, rows_at_once
from moe.surgery.distance import LogitDistance, logit_distance
from moe.surgery.streamed import by_rows, final_normed, head_weight, last_states
from moe.surgery.text import Text


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Mean losses in nats per token, and the distance of the logits, on ``tokens`` predictions."""

    source: str
    tokens: int
    loss_before: float
    loss_after: float
    distance: LogitDistance


def text_loss(checkpoint: Checkpoint, text: Text) -> float:
    """Return the cross entropy in nats per predicted token; one layer is in memory at a time."""
    count = text.predictions
    parts = zip(_split(checkpoint, text.labels.flatten()), _logits(checkpoint, text), strict=True)
    total = sum(_loss(logits_RV, labels_R) for labels_R, logits_RV in parts)
    if total != total:
        raise CheckpointError(
            f"the loss of {checkpoint.path} is not a number; find its layer with `raymoe evaluate`"
        )
    return total / count


def held_out(before: Checkpoint, after: Checkpoint, text: Text) -> HeldOut:
    """Compare two models with one vocabulary on a text."""
    count = text.predictions
    loss_before, loss_after, distances = 0.0, 0.0, list[LogitDistance]()
    labels = _split(before, text.labels.flatten())
    models = (_logits(each, text) for each in (before, after))
    for labels_R, one_RV, other_RV in zip(labels, *models, strict=True):
        loss_before += _loss(one_RV, labels_R)
        loss_after += _loss(other_RV, labels_R)
        distances.append(logit_distance(one_RV, other_RV))
    joined = _joined(distances)
    return HeldOut(text.source, count, loss_before / count, loss_after / count, joined)


@torch.no_grad()
def _logits(checkpoint: Checkpoint, text: Text) -> Iterator[Tensor]:
    """Yield the logits [R, V] of a few tokens at a time."""
    x_BSD = final_normed(checkpoint, last_states(checkpoint, text.tokens))
    head = head_weight(checkpoint)
    for x_RD in _split(checkpoint, x_BSD.flatten(0, 1)):
        yield by_rows(x_RD, head)


def _split(checkpoint: Checkpoint, tokens_T: Tensor) -> tuple[Tensor, ...]:
    """Divide something into parts of as many tokens as have logits at the same time."""
    return torch.split(tokens_T, rows_at_once(checkpoint.config.vocab_size))


def _loss(logits_RV: Tensor, labels_R: Tensor) -> float:
    return cross_entropy_sum(logits_RV[None], labels_R[None]).item()


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
