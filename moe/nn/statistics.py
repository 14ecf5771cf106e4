"""Statistics of one layer's router on a micro-batch. Padding is never counted.

Shapes: B batch, S sequence, T tokens = B * S, K experts per token, N experts, A = S * K.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from moe.nn.balance import BalanceScope, Losses, Spread, mean, spread
from moe.nn.router import Routing

LEAST_SCORE = 1e-6


class RoutingStatistics(NamedTuple):
    """Statistics of one MoE layer on one micro-batch; detached tensors.

    ``tokens`` counts tokens that are not padding; ``load`` [N] counts the (token, expert) pairs of
    each expert; ``probability`` [N] is the mean router probability of each expert. ``drop_rate`` is
    the share of pairs beyond capacity or, if experts choose, the share of tokens that no expert
    took. Losses are without their coefficients; a loss without coefficient is None. ``sharpness``
    is the mean ratio of the two largest scores.
    """

    tokens: Tensor
    load: Tensor
    probability: Tensor
    drop_rate: Tensor
    balance_loss: Tensor
    sharpness: Tensor
    z_loss: Tensor | None = None
    device_loss: Tensor | None = None


class Tally(NamedTuple):
    """Counts by sequence: tokens [B], (token, expert) pairs and summed probabilities [B, N]."""

    tokens: Tensor
    load: Tensor
    probability: Tensor

    def spread(self, scope: BalanceScope) -> Spread:
        """Return the spread of the tokens of each sequence, or of all tokens of the micro-batch."""
        if scope == "sequence":
            return spread(self.load, self.probability, self.tokens)
        load_1N, probability_1N = self.load.sum(0, True), self.probability.sum(0, True)
        return spread(load_1N, probability_1N, self.tokens.sum(0, True))


def tally(routing: Routing, counted_TK: Tensor, valid_BS: Tensor) -> Tally:
    """Count the marked pairs and the valid tokens."""
    batch, experts = len(valid_BS), routing.scores.shape[1]
    load_BN = torch.zeros(batch, experts, dtype=torch.long, device=valid_BS.device)
    experts_BA, counted_BA = (x.reshape(batch, -1) for x in (routing.experts, counted_TK))
    load_BN.scatter_add_(1, experts_BA, counted_BA.long())
    probability_TN = routing.probabilities.masked_fill(~valid_BS.reshape(-1, 1), 0.0)
    probability_BN = probability_TN.view(batch, -1, experts).sum(dim=1)
    return Tally(valid_BS.sum(dim=1), load_BN, probability_BN)


def statistics(
    routing: Routing, counts: Tally, losses: Losses, drop_rate: Tensor, valid_T: Tensor | None
) -> RoutingStatistics:
    """Return the statistics of a layer; ``valid_T`` is False for padding, None without any."""
    tokens, load_N = counts.tokens.sum(), counts.load.sum(dim=0)
    return RoutingStatistics(
        tokens=tokens,
        load=load_N,
        probability=counts.probability.detach().sum(dim=0) / tokens.clamp(min=1),
        drop_rate=drop_rate,
        balance_loss=losses.balance.detach(),
        sharpness=sharpness(routing.scores.detach(), valid_T),
        z_loss=None if losses.z is None else losses.z.detach(),
        device_loss=None if losses.device is None else losses.device.detach(),
    )


def sharpness(scores_TN: Tensor, valid_T: Tensor | None = None, place: int = 0) -> Tensor:
    """Return the mean of the largest score over the second (Skywork-MoE figure 3); 1 without
    tokens.

    With ``place`` 1, that of the second over the third. A score is counted as at least 1e-6, so
    that one saturated token does not drown the others.
    """
    if not len(scores_TN) or scores_TN.shape[1] < place + 2:
        return scores_TN.new_ones(())
    top_TP = scores_TN.topk(place + 2, dim=-1).values.clamp(min=LEAST_SCORE)
    ratio = mean(top_TP[:, place] / top_TP[:, place + 1], valid_T)
    return ratio if valid_T is None else ratio.masked_fill(~valid_T.any(), 1.0)
