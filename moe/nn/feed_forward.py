"""The SwiGLU feed-forward, as a dense layer split over the gang and as a bank of whole experts.

Shapes: T tokens, D hidden.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from moe.config.model import ModelConfig
from moe.config.share import Share
from moe.nn.attention import row_parallel
from moe.nn.exchange import Exchange


class FeedForward(nn.Module):
    """``down(silu(gate(x)) * up(x))``."""

    def __init__(self, hidden_size: int, size: int, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, size, bias=bias)
        self.up_proj = nn.Linear(hidden_size, size, bias=bias)
        self.down_proj = nn.Linear(size, hidden_size, bias=bias)

    def activate(self, x: Tensor) -> Tensor:
        """Return the inner activation, before the down projection."""
        inner: Tensor = F.silu(self.gate_proj(x)) * self.up_proj(x)
        return inner

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer; the last dimension is hidden."""
        out: Tensor = self.down_proj(self.activate(x))
        return out


class DenseFeedForward(FeedForward):
    """A feed-forward whose columns are split over the gang."""

    def __init__(self, config: ModelConfig, share: Share, exchange: Exchange) -> None:
        super().__init__(config.hidden_size, share.ffn[1] - share.ffn[0], config.mlp_bias)
        self.exchange = exchange

    def forward(self, x: Tensor) -> Tensor:
        """Apply the slice and sum over the gang."""
        (x,) = self.exchange.enter(x)
        return row_parallel(self.down_proj, self.activate(x), self.exchange)


class Experts(nn.ModuleDict):
    """Whole experts, keyed by their number in the layer."""

    def __init__(self, hidden_size: int, size: int, numbers: Sequence[int]) -> None:
        super().__init__({str(number): FeedForward(hidden_size, size) for number in numbers})
        self.numbers = tuple(numbers)

    def run(self, expert: int, x_TD: Tensor) -> Tensor:
        """Apply one expert."""
        out: Tensor = self[str(expert)](x_TD)
        return out
