"""The SwiGLU feed-forward, and a dense layer whose columns are split over the gang."""

import torch.nn.functional as F
from torch import Tensor, nn

from moe.config.model import ModelConfig
from moe.config.share import Share
from moe.nn.attention import row_parallel
from moe.nn.exchange import Exchange
from moe.nn.later import Later
from moe.nn.linear import Linear
from moe.nn.weights.weight import Weight


class FeedForward(nn.Module):
    """``down(silu(gate(x)) * up(x))``."""

    def __init__(self, hidden_size: int, size: int, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj = Linear(hidden_size, size, bias=bias)
        self.up_proj = Linear(hidden_size, size, bias=bias)
        self.down_proj = Linear(size, hidden_size, bias=bias)

    @property
    def weights(self) -> tuple[Weight, Weight, Weight]:
        """Weights of gate, up and down."""
        return self.gate_proj.matrix, self.up_proj.matrix, self.down_proj.matrix

    def activate(self, x: Tensor, later: Later | None = None) -> Tensor:
        """Return the inner activation, before the down projection."""
        inner: Tensor = F.silu(self.gate_proj(x, later)) * self.up_proj(x, later)
        return inner

    def forward(self, x: Tensor, later: Later | None = None) -> Tensor:
        """Apply the layer; the last dimension is hidden."""
        out: Tensor = self.down_proj(self.activate(x, later), later)
        return out


class DenseFeedForward(FeedForward):
    """A feed-forward whose columns are split over the gang."""

    def __init__(self, config: ModelConfig, share: Share, exchange: Exchange) -> None:
        super().__init__(config.hidden_size, share.ffn[1] - share.ffn[0], config.mlp_bias)
        self.exchange = exchange

    def forward(self, x: Tensor, later: Later | None = None) -> Tensor:
        """Apply the slice and sum over the gang."""
        (x,) = self.exchange.enter(x)
        return row_parallel(self.down_proj, self.activate(x, later), self.exchange, later)
