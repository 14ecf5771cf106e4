"""One transformer block, dense or mixture of experts, over a rank's slice of it.

Shapes: B batch, S sequence, D hidden, T tokens = B * S, N experts, K experts per token.
"""

import torch
from torch import Tensor, nn

from moe.config.model import ModelConfig, MoeConfig
from moe.config.share import Share, shared_span
from moe.config.tuning import lora_of
from moe.nn import balance, dispatch
from moe.nn.attention import Attention
from moe.nn.exchange import Exchange
from moe.nn.experts.experts import Experts
from moe.nn.feed_forward import DenseFeedForward, FeedForward
from moe.nn.layer_pass import BlockOutput, LayerPass
from moe.nn.merged_mixture import MergedMixture
from moe.nn.norm import Norm
from moe.nn.rotary import Rotation
from moe.nn.router import Router, Routing
from moe.nn.statistics import RoutingStatistics, statistics, tally


class MixtureOfExperts(nn.Module):
    """Router, dispatch, this rank's experts and columns of the shared expert; summed over the gang.

    Every rank of the gang holds all tokens and computes the same routing, so dispatch is local.
    Ranks compute the same choice of experts to the bit; if their devices might round differently,
    they use the choice of the gang's leader. Routing weights and the output of the shared gate pass
    through ``enter`` as tokens do: each rank has the gradient of its own experts only, and router
    and gate need the sum of these gradients.
    """

    def __init__(
        self, config: ModelConfig, moe: MoeConfig, layer: int, share: Share, gang: Exchange
    ) -> None:
        super().__init__()
        self.layer = layer
        self.config = moe
        self.hidden_size = config.hidden_size
        self.exchange = gang
        hidden, tuning = config.hidden_size, config.tuning
        self.router = Router(hidden, moe, layer, gang.agree, lora_of(tuning, "router"))
        numbers, of_experts = share.experts_of(layer), lora_of(tuning, "gate", expert=0)
        self.experts = Experts(hidden, moe.expert_size, numbers, of_experts)
        if moe.shared_size:
            start, stop = shared_span(config, share.ffn)
            self.shared = FeedForward(hidden, stop - start, tuning=tuning, exchange=gang)
        if moe.shared_gate:
            self.shared_gate = nn.Linear(config.hidden_size, 1, bias=False)

    def forward(self, x_BSD: Tensor, how: LayerPass) -> BlockOutput:
        """Return [B, S, D] and the statistics; padding is not routed to experts."""
        x_TD = x_BSD.flatten(0, 1)
        exact_TD = x_TD.to(torch.promote_types(x_TD.dtype, torch.float32))
        raw = self.router(exact_TD, None if how.tokens is None else how.tokens.flatten())
        gates = [self.shared_gate(exact_TD).sigmoid()] if self.config.shared_gate else []
        valid_T = None if how.valid is None else how.valid.flatten()
        agree = self.exchange.agree
        routing, kept_TK = dispatch.assign(raw, how.capacity, self.config, valid_T, agree)
        entered = self.exchange.enter(x_TD, routing.weights, *gates)
        y_TD, found = self._gang(entered, routing.experts, kept_TK, how), None
        if how.measured:
            loss, found = self._measure(routing, kept_TK, x_BSD.shape[:2], how)
            y_TD = balance.attach(y_TD, loss)
        return BlockOutput(y_TD.view_as(x_BSD), found)

    def _gang(
        self,
        entered: tuple[Tensor, ...],
        experts_TK: Tensor,
        kept_TK: Tensor,
        how: LayerPass,
    ) -> Tensor:
        """Return the weighted sum over all experts of the gang, including the shared expert [T,
        D].

        ``entered`` are tokens, routing weights and, if there is one, the output of the shared gate.
        """
        x_TD, weights_TK, *gates = entered
        if how.inputs is not None:
            how.inputs.add(self.layer, self.experts, x_TD, experts_TK, kept_TK)
        room = dispatch.room(how.capacity, len(x_TD), self.config)
        y_TD: Tensor = self.experts(x_TD, experts_TK, weights_TK, kept_TK, how.later, room)
        if self.config.shared_size:
            shared_TD = self.shared(x_TD, how.later)
            y_TD = y_TD + (gates[0] * shared_TD if gates else shared_TD)
        return self.exchange.leave(y_TD)

    def _measure(
        self, routing: Routing, kept_TK: Tensor, size: torch.Size, how: LayerPass
    ) -> tuple[Tensor, RoutingStatistics]:
        """Return the loss for the backward pass, and the statistics."""
        valid_BS = how.valid
        if valid_BS is None:
            valid_BS = torch.ones(size, dtype=torch.bool, device=kept_TK.device)
        valid_T, chosen = valid_BS.flatten(), how.capacity.chooser == "experts"
        mask_T = None if how.valid is None else valid_T
        counted_TK = kept_TK if chosen else valid_T[:, None].expand_as(kept_TK)
        counts = tally(routing, counted_TK, valid_BS)
        now = counts.spread(how.balance.scope)
        losses = balance.losses(how.balance, self.layer, now, routing.logits, mask_T)
        if chosen:
            lost = dispatch.untaken(kept_TK, valid_T)
        else:
            lost = dispatch.drop_rate(counts.load.sum(dim=0), how.capacity.measured_factor)
        return losses.total, statistics(routing, counts, losses, lost, mask_T)


class Block(nn.Module):
    """Attention and feed-forward, each after a norm and added to the residual stream.

    Products compute in the type ``narrow``, if there is one, else in that of the stream.
    """

    def __init__(
        self,
        config: ModelConfig,
        layer: int,
        share: Share,
        exchange: Exchange,
        narrow: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.input_layernorm = Norm(config.hidden_size, config.norm_eps, narrow)
        self.self_attn = Attention(config, share, exchange)
        self.post_attention_layernorm = Norm(config.hidden_size, config.norm_eps, narrow)
        self.mlp: nn.Module
        if config.moe is not None and config.has_experts(layer):
            kind = MergedMixture if config.moe.merged else MixtureOfExperts
            self.mlp = kind(config, config.moe, layer, share, exchange)
        else:
            self.mlp = DenseFeedForward(config, share, exchange)

    def forward(self, x_BSD: Tensor, rotary: Rotation, how: LayerPass) -> BlockOutput:
        """Apply the block; padding is not routed."""
        normed_BSD = self.input_layernorm(x_BSD)
        mixed_BSD = self.self_attn(normed_BSD, rotary, how.cache, how.later, how.documents)
        x_BSD = x_BSD + mixed_BSD
        normed_BSD = self.post_attention_layernorm(x_BSD)
        if isinstance(self.mlp, MixtureOfExperts | MergedMixture):
            output: BlockOutput = self.mlp(normed_BSD, how)
            return BlockOutput(x_BSD + output.hidden, output.statistics)
        return BlockOutput(x_BSD + self.mlp(normed_BSD, how.later), None)
