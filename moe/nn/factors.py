"""The factors that LoRA trains beside a weight (``moe.config.tuning``)::

    y = W x + scale * B (A x)

In a gang that cuts the outputs of W, every member holds all of A, and where it cuts the inputs, all
of B: each then has the gradient of its own rows only. Such a factor enters the gang, so its
gradient is summed over the members, as that of a norm which they share is.

Shapes: N outputs, K inputs, R rank.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe.config.tuning import Lora
from moe.nn.exchange import Alone, Exchange
from moe.nn.weights.low_rank import LowRank
from moe.nn.weights.weight import Weight


class Factors(nn.Module):
    """A [R, K] and B [N, R] beside one weight, or beside two above each other.

    ``cut`` is the dimension along which the gang cuts the weight; None: it does not.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        lora: Lora,
        exchange: Exchange | None = None,
        cut: int | None = None,
    ) -> None:
        super().__init__()
        self.lora_A = nn.Parameter(torch.empty(lora.rank, inputs))
        self.lora_B = nn.Parameter(torch.empty(outputs, lora.rank))
        self.scale = lora.scale
        self.exchange = exchange or Alone()
        self.cut = cut

    def forward(self, x: Tensor) -> Tensor:
        """Return what is added to the outputs for rows in the last dimension, in their type."""
        down_RK: Tensor = self.lora_A
        up_NR: Tensor = self.lora_B
        if self.cut == 0:
            (down_RK,) = self.exchange.enter(down_RK)
        if self.cut == 1:
            (up_NR,) = self.exchange.enter(up_NR)
        inner = F.linear(x, down_RK.to(x.dtype))
        return self.scale * F.linear(inner, up_NR.to(x.dtype))

    def beside(self, weight: Weight, first: int, count: int) -> Weight:
        """Return a weight with what is added to it: by ``count`` rows of B from the ``first``."""
        return LowRank(weight, self.lora_A, self.lora_B, self.scale, first, first + count)
