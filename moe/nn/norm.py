"""The norm before attention, feed-forward and head: from the residual stream to products."""

import torch
from torch import Tensor, nn


class Norm(nn.RMSNorm):
    """RMS norm of the residual stream; the output has the type ``narrow`` of products, if there is
    one, else that of the stream.

    So products, which compute in the type of their rows, find rows of their type, cast once.
    """

    def __init__(self, size: int, eps: float, narrow: torch.dtype | None = None) -> None:
        super().__init__(size, eps)
        self.narrow = narrow

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        normed: Tensor = super().forward(x)
        return normed if self.narrow is None else normed.to(self.narrow)
