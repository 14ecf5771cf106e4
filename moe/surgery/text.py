"""Text as tokens, and the loss of a model on it, computed from the model's files.

Shapes: B sequences, S positions, D hidden, V vocabulary.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from moe.checkpoint.reader import Checkpoint
from moe.errors import CheckpointError, DataError
from moe.nn.decoder import Decoder
from moe.nn.loss import IGNORED, cross_entropy_sum
from moe.surgery.streamed import embedded, head, run, streamed_layer

_SEQUENCES = 8
"""Sequences that are computed at a time."""


@dataclass(frozen=True, slots=True)
class Text:
    """Tokens and labels [B, S] of some sequences, and where they came from."""

    source: str
    tokens: Tensor
    labels: Tensor

    def record(self) -> dict[str, object]:
        """Return the entry of a receipt."""
        digest = hashlib.sha256(self.tokens.long().numpy().tobytes()).hexdigest()
        return {"source": self.source, "tokens": self.tokens.numel(), "sha256": digest}


def in_parts(decoder: Decoder, tokens_BS: Tensor, x_BSD: Tensor) -> Tensor:
    """Return the hidden states after the layers of a decoder, a few sequences at a time."""
    rows = range(0, len(tokens_BS), _SEQUENCES)
    parts = [
        run(decoder, tokens_BS[row : row + _SEQUENCES], x_BSD[row : row + _SEQUENCES])
        for row in rows
    ]
    return torch.cat(parts)


@torch.no_grad()
def text_loss(checkpoint: Checkpoint, text: Text) -> float:
    """Return the cross entropy in nats per predicted token; one layer is in memory at a time."""
    counted = int((text.labels != IGNORED).sum())
    if not counted:
        raise DataError(f"no token of {text.source} has a next one to predict; take longer text")
    x_BSD = embedded(checkpoint, text.tokens)
    for layer in range(checkpoint.config.layers):
        x_BSD = in_parts(streamed_layer(checkpoint, layer), text.tokens, x_BSD)
    sums = (
        cross_entropy_sum(head(checkpoint, x_SD[None]), labels_S[None]).item()
        for x_SD, labels_S in zip(x_BSD, text.labels, strict=True)
    )
    total: float = sum(sums)
    if total != total:
        raise CheckpointError(
            f"the loss of {checkpoint.path} is not a number; find its layer with `raymoe evaluate`"
        )
    return total / counted
