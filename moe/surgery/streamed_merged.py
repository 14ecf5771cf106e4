"""Experts that are merged for segments, computed from their files.

Shapes: B batch, S sequence, D hidden, G segments of a sequence, N experts, R rows of a segment.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from moe.checkpoint.reader import Checkpoint
from moe.config.role import ModelPart
from moe.config.tensors import TensorSlice
from moe.nn.experts.merged import MergedExperts, segments
from moe.nn.linear import linear
from moe.nn.weights.dense import Dense


class StreamedMergedExperts(MergedExperts):
    """Experts that are merged one after the other, a matrix at a time."""

    def __init__(self, checkpoint: Checkpoint, layer: Iterable[TensorSlice]) -> None:
        """Stand for the merged experts among the tensors of a layer."""
        super().__init__(checkpoint.config.hidden_size, checkpoint.config.ffn_size, ())
        self._checkpoint = checkpoint
        self._tensors: dict[ModelPart, list[TensorSlice]] = {"gate": [], "up": [], "down": []}
        for tensor in layer:
            if tensor.role.expert is not None:
                self._tensors[tensor.role.part].append(tensor)

    def merge(self, x_BSD: Tensor, weights_BGN: Tensor, length: int) -> Tensor:
        """Return the output of the merged feed-forward of each segment, [B, S, D]. Nothing here has
        a gradient.
        """
        y_BSD = torch.empty_like(x_BSD)
        spans = segments(x_BSD.shape[:2], length)
        for span, weights_N in zip(spans, weights_BGN.flatten(0, 1), strict=True):
            gate, up, down = (Dense(self._sum(part, weights_N)) for part in ("gate", "up", "down"))
            inner_RF = F.silu(linear(span.of(x_BSD), gate)) * linear(span.of(x_BSD), up)
            span.of(y_BSD).copy_(linear(inner_RF, down))
        return y_BSD

    def _sum(self, part: ModelPart, weights_N: Tensor) -> Tensor:
        """Return the sum of one matrix of all experts, in float32."""
        sums: Tensor | None = None
        for tensor, weight in zip(self._tensors[part], weights_N.tolist(), strict=True):
            own = self._checkpoint.read(tensor).float()
            sums = own * weight if sums is None else sums.add_(own, alpha=weight)
        assert sums is not None
        return sums
