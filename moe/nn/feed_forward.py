"""The SwiGLU feed-forward, and a dense layer whose columns are split over the gang."""

import torch.nn.functional as F
from torch import Tensor, nn

from moe.config.model import ModelConfig
from moe.config.role import ModelPart
from moe.config.share import Share
from moe.config.tuning import Lora, Tuning, lora_of
from moe.nn.attention import row_parallel
from moe.nn.exchange import Exchange
from moe.nn.factors import Factors
from moe.nn.later import Later
from moe.nn.linear import Linear
from moe.nn.weights.weight import Weight


class FeedForward(nn.Module):
    """``down(silu(gate(x)) * up(x))``.

    With ``tuning``, those of the three that it says have factors, for a gang that cuts the columns.
    """

    def __init__(
        self,
        hidden_size: int,
        size: int,
        bias: bool = False,
        tuning: Tuning | None = None,
        exchange: Exchange | None = None,
    ) -> None:
        super().__init__()

        def made(part: ModelPart, inputs: int, outputs: int, cut: int) -> Linear:
            lora = lora_of(tuning, part)
            factors = None if lora is None else Factors(inputs, outputs, lora, exchange, cut)
            return Linear(inputs, outputs, bias, factors)

        self.gate_proj = made("gate", hidden_size, size, 0)
        self.up_proj = made("up", hidden_size, size, 0)
        self.down_proj = made("down", size, hidden_size, 1)

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


class Expert(FeedForward):
    """A routed expert, whole on its rank; gate and up have one pair of factors together."""

    def __init__(self, hidden_size: int, size: int, lora: Lora | None = None) -> None:
        super().__init__(hidden_size, size)
        self.adapter: Factors | None = None
        if lora is not None:
            self.adapter = Factors(hidden_size, 2 * size, lora)
            self.down_proj.adapter = Factors(size, hidden_size, lora)

    @property
    def weights(self) -> tuple[Weight, Weight, Weight]:
        """Weights of gate, up and down, with what factors add to them."""
        gate, up, down = super().weights
        rows = self.gate_proj.out_features
        if self.adapter is not None:
            gate, up = self.adapter.beside(gate, 0, rows), self.adapter.beside(up, rows, rows)
        if self.down_proj.adapter is not None:
            down = self.down_proj.adapter.beside(down, 0, self.down_proj.out_features)
        return gate, up, down


class DenseFeedForward(FeedForward):
    """A feed-forward whose columns are split over the gang."""

    def __init__(self, config: ModelConfig, share: Share, exchange: Exchange) -> None:
        columns = share.ffn[1] - share.ffn[0]
        super().__init__(config.hidden_size, columns, config.mlp_bias, config.tuning, exchange)
        self.exchange = exchange

    def forward(self, x: Tensor, later: Later | None = None) -> Tensor:
        """Apply the slice and sum over the gang."""
        (x,) = self.exchange.enter(x)
        return row_parallel(self.down_proj, self.activate(x, later), self.exchange, later)
