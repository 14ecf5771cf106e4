"""One transformer block, dense or mixture of experts, over a rank's slice of it.

Shapes: B batch, S sequence, D hidden, T tokens = B * S, N experts.
"""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from moe.config.model import ModelConfig, MoeConfig
from moe.config.share import Share
from moe.nn import balance, dispatch
from moe.nn.attention import Attention, LayerCache
from moe.nn.balance import BalanceLoss, RoutingStatistics
from moe.nn.dispatch import Capacity
from moe.nn.exchange import Exchange
from moe.nn.feed_forward import DenseFeedForward, Experts
from moe.nn.rotary import Rotation
from moe.nn.router import Router, Routing


@dataclass(frozen=True, slots=True)
class Balancing:
    """Which balance loss joins the backward pass, and how strongly, for one layer.

    ``scale`` is the layer's coefficient times the weight of one micro-batch in the step.
    """

    kind: BalanceLoss = "skywork"
    scale: float = 0.0


class BlockOutput(NamedTuple):
    """Hidden states [B, S, D], and the routing statistics of a mixture-of-experts block."""

    hidden: Tensor
    statistics: RoutingStatistics | None


class MixtureOfExperts(nn.Module):
    """Router, dispatch and this rank's experts; the output is summed over the gang.

    Every rank of the gang holds all tokens and routes them alike, so dispatch is local. The
    routing weights enter the gang like the tokens do: each rank knows only its own experts'
    gradient of them, the sum is what the router must see.
    """

    def __init__(self, config: ModelConfig, moe: MoeConfig, share: Share, gang: Exchange) -> None:
        super().__init__()
        self.exchange = gang
        self.router = Router(config.hidden_size, moe)
        self.experts = Experts(config.hidden_size, moe.expert_size, share.experts)

    def forward(
        self,
        x_BSD: Tensor,
        capacity: Capacity,
        balancing: Balancing,
        valid_BS: Tensor | None = None,
    ) -> tuple[Tensor, RoutingStatistics]:
        """Return [B, S, D] and the statistics; tokens that are not valid count nowhere."""
        x_TD = x_BSD.flatten(0, 1)
        valid_T = None if valid_BS is None else valid_BS.flatten()
        routing = self.router(x_TD)
        kept_TK = dispatch.keep(routing, capacity, valid_T)
        loss, statistics = _measure(routing, kept_TK, capacity, balancing, valid_T)
        if capacity.factor is not None and self.router.config.renormalise:
            routing = dispatch.reweigh(routing, kept_TK)
        x_TD, weights_TK = self.exchange.enter(x_TD, routing.weights)
        routing = routing._replace(weights=weights_TK)
        y_TD = dispatch.combine(x_TD, routing, kept_TK, self.experts.numbers, self.experts.run)
        y_TD = balance.attach(self.exchange.leave(y_TD), loss * balancing.scale)
        return y_TD.view_as(x_BSD), statistics


class Block(nn.Module):
    """Attention and feed-forward, each after a norm and added to the residual stream."""

    def __init__(self, config: ModelConfig, share: Share, exchange: Exchange) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, config.norm_eps)
        self.self_attn = Attention(config, share, exchange)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, config.norm_eps)
        self.mlp: nn.Module
        if config.moe is None:
            self.mlp = DenseFeedForward(config, share, exchange)
        else:
            self.mlp = MixtureOfExperts(config, config.moe, share, exchange)

    def forward(
        self,
        x_BSD: Tensor,
        turn: Rotation,
        capacity: Capacity,
        balancing: Balancing,
        cache: LayerCache | None = None,
        valid_BS: Tensor | None = None,
    ) -> BlockOutput:
        """Apply the block; tokens that are not valid are not routed."""
        x_BSD = x_BSD + self.self_attn(self.input_layernorm(x_BSD), turn, cache)
        normed_BSD = self.post_attention_layernorm(x_BSD)
        if isinstance(self.mlp, MixtureOfExperts):
            y_BSD, statistics = self.mlp(normed_BSD, capacity, balancing, valid_BS)
            return BlockOutput(x_BSD + y_BSD, statistics)
        return BlockOutput(x_BSD + self.mlp(normed_BSD), None)


def _measure(
    routing: Routing,
    kept_TK: Tensor,
    capacity: Capacity,
    balancing: Balancing,
    valid_T: Tensor | None,
) -> tuple[Tensor, RoutingStatistics]:
    probabilities_TN = routing.probabilities
    if valid_T is not None:
        probabilities_TN = probabilities_TN[valid_T]
    load_N = dispatch.counts(routing.experts, probabilities_TN.shape[1], valid_T)
    loss = balance.balance_loss(balancing.kind, probabilities_TN, load_N)
    factor = capacity.virtual_factor if capacity.factor is None else capacity.factor
    statistics = RoutingStatistics(
        load=load_N,
        drop_rate=dispatch.drop_rate(load_N, factor),
        balance_loss=loss.detach(),
        sharpness=balance.sharpness(probabilities_TN.detach()),
    )
    return loss, statistics
