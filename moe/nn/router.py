"""Which experts a token goes to, and with what weight.

Skywork-MoE section 4.1, per token over the n experts::

    z  = W x
    z~ = lambda * (z - mean(z)) / std(z)      std unbiased, over all n experts
    g  = softmax(z~)                          over all n experts
    E  = the k largest of g
    w_j = g_j / sum of g over E

The mean is left out below: softmax does not see it, and the released inference code agrees. An
epsilon keeps a constant logit vector finite. The gate is computed in float32 whatever the model's
precision.

Shapes: T tokens, N experts, K experts per token, D hidden.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe.config.model import MoeConfig

STD_EPSILON = 1e-6


class Routing(NamedTuple):
    """Where each token goes. ``probabilities`` [T, N]; ``experts``, ``weights`` [T, K]."""

    probabilities: Tensor
    experts: Tensor
    weights: Tensor


class Router(nn.Module):
    """The gate: one linear map without bias, and the choice made from it."""

    def __init__(self, hidden_size: int, config: MoeConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.experts, hidden_size))

    def forward(self, x_TD: Tensor) -> Routing:
        """Return the routing of every token."""
        with torch.autocast(x_TD.device.type, enabled=False):
            return choose(F.linear(x_TD.float(), self.weight.float()), self.config)


def choose(logits_TN: Tensor, config: MoeConfig) -> Routing:
    """Turn gate logits into a routing."""
    if config.gate_norm is not None:
        logits_TN = normalise_logits(logits_TN, config.gate_norm)
    probabilities_TN = logits_TN.softmax(dim=-1)
    weights_TK, experts_TK = probabilities_TN.topk(config.top_k, dim=-1)
    if config.renormalise:
        weights_TK = weights_TK / weights_TK.sum(dim=-1, keepdim=True)
    return Routing(probabilities_TN, experts_TK, weights_TK)


def normalise_logits(logits_TN: Tensor, gate_norm: float) -> Tensor:
    """Scale each token's logits to the standard deviation ``gate_norm``; one logit has none."""
    if logits_TN.shape[-1] < 2:
        return logits_TN
    variance_T1 = logits_TN.var(dim=-1, keepdim=True)
    return logits_TN * gate_norm * torch.rsqrt(variance_T1 + STD_EPSILON**2)
