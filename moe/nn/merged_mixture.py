"""A layer whose experts are merged for each segment, over a rank's columns of them.

Shapes: B batch, S sequence, D hidden, G segments, N experts, T tokens = B * S.
"""

import torch
from torch import Tensor, nn

from moe.config.model import ModelConfig, MoeConfig
from moe.config.share import Share
from moe.nn import balance
from moe.nn.exchange import Exchange
from moe.nn.experts.merged import MergedExperts
from moe.nn.layer_pass import BlockOutput, LayerPass
from moe.nn.router import Routing
from moe.nn.segments import SegmentRouter, by_prompt, by_segments
from moe.nn.statistics import RoutingStatistics, statistics, tally


class MergedMixture(nn.Module):
    """The gate of a layer and this rank's columns of its experts; summed over the gang.

    Every rank of the gang holds all tokens and the gate, and computes the same weights of experts.
    Their gradients are summed over the gang, since each rank has those by its own columns.
    """

    def __init__(
        self, config: ModelConfig, moe: MoeConfig, layer: int, share: Share, gang: Exchange
    ) -> None:
        super().__init__()
        self.layer = layer
        self.config = moe
        self.exchange = gang
        self.router = SegmentRouter(config.hidden_size, moe)
        columns = share.ffn[1] - share.ffn[0]
        self.experts = MergedExperts(config.hidden_size, columns, range(moe.experts))

    def forward(self, x_BSD: Tensor, how: LayerPass) -> BlockOutput:
        """Return [B, S, D] and the statistics; padding does not count in the routing."""
        if how.documents is not None and any(len(row) > 1 for row in how.documents.sizes):
            raise RuntimeError(
                f"layer {self.layer} merges experts for segments of a row, which documents share; "
                "give one document a row"
            )
        exact_BSD = x_BSD.to(torch.promote_types(x_BSD.dtype, torch.float32))
        logits_BSN: Tensor = self.router(exact_BSD)
        weights_BGN, length = self._routed(logits_BSN, how)
        x_BSD, weights_BGN = self.exchange.enter(x_BSD, weights_BGN)
        y_BSD = self.exchange.leave(self.experts.merge(x_BSD, weights_BGN, length))
        found = self._measure(logits_BSN, weights_BGN, length, how) if how.measured else None
        return BlockOutput(y_BSD, found)

    def _routed(self, logits_BSN: Tensor, how: LayerPass) -> tuple[Tensor, int]:
        """Return the weights of experts [B, G, N] and the tokens of a segment.

        The first pass into a cache is the prompt; it routes all that comes after.
        """
        cache, length = how.cache, self.config.segment_tokens
        assert length is not None
        tokens = logits_BSN.shape[1]
        if cache is not None and cache.routed is not None:
            return cache.routed[:, None], tokens
        if cache is not None:
            cache.routed = by_prompt(logits_BSN)
        first = self.config.first_segment
        return by_segments(logits_BSN, length, first, how.valid), length

    @torch.no_grad()
    def _measure(
        self, logits_BSN: Tensor, weights_BGN: Tensor, length: int, how: LayerPass
    ) -> RoutingStatistics:
        """Return the statistics; a token counts for the expert with the largest weight."""
        batch, tokens = logits_BSN.shape[:2]
        weights_BSN = weights_BGN.repeat_interleave(length, dim=1)[:, :tokens]
        weights_TN = weights_BSN.flatten(0, 1)
        best = weights_TN.max(dim=1, keepdim=True)
        routing = Routing(
            logits_BSN.flatten(0, 1), weights_TN, weights_TN, best.indices, best.values
        )
        valid_BS = how.valid
        if valid_BS is None:
            valid_BS = torch.ones(batch, tokens, dtype=torch.bool, device=logits_BSN.device)
        mask_T = None if how.valid is None else valid_BS.flatten()
        counts = tally(routing, valid_BS.view(-1, 1), valid_BS)
        now = counts.spread("micro-batch")
        losses = balance.losses(balance.NO_LOSS, self.layer, now, routing.logits, mask_T)
        return statistics(routing, counts, losses, logits_BSN.new_zeros(()), mask_T)
