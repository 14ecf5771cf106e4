"""Routes each token to experts, with weights.

Skywork-MoE section 4.1, per token over the n experts::

    z  = W x
    z~ = lambda * (z - mean(z)) / std(z)      std unbiased, over all n experts
    g  = softmax(z~)                          over all n experts
    E  = the k largest of g
    w_j = g_j / sum of g over E

The released inference code omits the mean, which does not change a softmax but would change a
sigmoid. An epsilon keeps a constant logit vector finite. DeepSeek-V3 (section 2.1.2) scores by the
sigmoid of each logit, adds a bias to the scores only for the choice, and restricts a token to its
best groups of experts, where a group is scored by its two best experts. The gate is computed in
float32 in any precision of the model.

Shapes: T tokens, N experts, K experts per token, G groups of M experts, H groups reached, D hidden.
"""

from collections.abc import Callable
from math import inf
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe.config.model import MoeConfig
from moe.config.tuning import Lora
from moe.nn.factors import Factors

STD_EPSILON = 1e-6
SUM_FLOOR = 1e-20

Agree = Callable[[Tensor], Tensor]
"""Gives all members of a gang the choice of the leader."""

Adapted = Callable[[Tensor], Tensor]
"""Adds to the logits of a gate what adapters of its rows add."""


def alone(x: Tensor) -> Tensor:
    """Return x: a rank without a gang, a gate without adapters."""
    return x


class Routing(NamedTuple):
    """The routing of each token: its ``experts`` and their ``weights``, both [T, K].

    Over all experts, [T, N]: ``logits`` of the gate; ``scores``, softmax or sigmoid, by which
    experts are chosen; ``probabilities``, which sum to one and enter the balance losses.
    """

    logits: Tensor
    scores: Tensor
    probabilities: Tensor
    experts: Tensor
    weights: Tensor


class Router(nn.Module):
    """The gate of one layer: a linear map without bias and the choice of experts, or a hash."""

    def __init__(
        self,
        hidden_size: int,
        config: MoeConfig,
        layer: int,
        agree: Agree = alone,
        lora: Lora | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.layer = layer
        self._agree = agree
        if not config.hashed:
            self.weight = nn.Parameter(torch.empty(config.experts, hidden_size))
        self.adapter: Factors | None = None
        if lora is not None and not config.hashed:
            self.adapter = Factors(hidden_size, config.experts, lora)
        self.balance_bias: nn.Parameter | None = None
        if config.balance_bias:
            self.balance_bias = nn.Parameter(torch.empty(config.experts), requires_grad=False)

    def forward(
        self, x_TD: Tensor, tokens_T: Tensor | None = None, adapted: Adapted = alone
    ) -> Routing:
        """Return the routing of every token; a hash reads token numbers, not hidden states.

        ``adapted`` gives the logits that count for those of the gate.
        """
        if self.config.hashed:
            if tokens_T is None:
                raise RuntimeError(
                    f"layer {self.layer} hashes token numbers to experts but got no tokens; "
                    "give Pass.tokens on shares without the embedding"
                )
            return hashed(tokens_T, self.layer, self.config.experts)
        logits_TN = F.linear(x_TD.float(), self.weight.float())
        if self.adapter is not None:
            logits_TN = logits_TN + self.adapter(x_TD.float())
        return choose(adapted(logits_TN), self.config, self.balance_bias, self._agree)


def choose(
    logits_TN: Tensor,
    config: MoeConfig,
    bias_N: Tensor | None = None,
    agree: Agree = alone,
    passed_over: int = 0,
) -> Routing:
    """Turn gate logits into a routing; so many of the best experts of a token are passed over."""
    gate_TN = logits_TN
    if config.gate_norm is not None:
        gate_TN = normalise_logits(logits_TN, config.gate_norm)
    scores_TN = gate_TN.sigmoid() if config.score == "sigmoid" else gate_TN.softmax(dim=-1)
    experts_TK = agree(_best(scores_TN.detach(), config, bias_N, passed_over))
    if config.softmax_after:
        weights_TK = gate_TN.gather(1, experts_TK).softmax(dim=-1)
    else:
        weights_TK = scores_TN.gather(1, experts_TK)
    probabilities_TN = _summing_to_one(scores_TN) if config.score == "sigmoid" else scores_TN
    if config.renormalise:
        weights_TK = _summing_to_one(weights_TK)
    return Routing(logits_TN, scores_TN, probabilities_TN, experts_TK, weights_TK * config.scale)


def hashed(tokens_T: Tensor, layer: int, experts: int) -> Routing:
    """Send each token to the expert its number hashes to (Roller et al. 2021), with weight 1.

    The hash is multiplicative, its constants those of Knuth and xxHash; layers differ.
    """
    mixed_T = (tokens_T.long() * 2654435761 + (layer + 1) * 2246822519) % 2**32
    experts_T1 = ((mixed_T >> 16) % experts)[:, None]
    only_TN = torch.zeros(len(tokens_T), experts, device=tokens_T.device).scatter(1, experts_T1, 1)
    weights_T1 = torch.ones_like(experts_T1, dtype=only_TN.dtype)
    return Routing(only_TN, only_TN, only_TN, experts_T1, weights_T1)


def normalise_logits(logits_TN: Tensor, gate_norm: float) -> Tensor:
    """Bring each token's logits to mean 0 and deviation ``gate_norm``; one logit is left alone."""
    if logits_TN.shape[-1] < 2:
        return logits_TN
    variance_T1, mean_T1 = torch.var_mean(logits_TN, dim=-1, keepdim=True)
    return (logits_TN - mean_T1) * gate_norm * torch.rsqrt(variance_T1 + STD_EPSILON**2)


def _best(scores_TN: Tensor, config: MoeConfig, bias_N: Tensor | None, passed_over: int) -> Tensor:
    choice_TN = scores_TN if bias_N is None else scores_TN + bias_N.to(scores_TN.dtype)
    if config.top_groups < config.groups:
        choice_TN = _within_best_groups(choice_TN, config)
    ranked = choice_TN.topk(passed_over + config.top_k, dim=-1).indices
    return ranked[:, passed_over:] if passed_over else ranked


def _within_best_groups(choice_TN: Tensor, config: MoeConfig) -> Tensor:
    """Put experts outside a token's best groups out of reach."""
    size = config.experts // config.groups
    grouped_TGM = choice_TN.reshape(-1, config.groups, size)
    merit_TG = grouped_TGM.topk(min(config.group_best, size), dim=-1).values.sum(dim=-1)
    reached_TH = merit_TG.topk(config.top_groups, dim=-1).indices
    outside_TG = torch.ones_like(merit_TG, dtype=torch.bool).scatter(1, reached_TH, False)
    return choice_TN.masked_fill(outside_TG.repeat_interleave(size, dim=1), -inf)


def _summing_to_one(values: Tensor) -> Tensor:
    return values / values.sum(dim=-1, keepdim=True).clamp(min=SUM_FLOOR)
