"""Which (token, expert) pairs survive a capacity.

A batch of T tokens makes T * K (token, expert) pairs. With a capacity factor c, an expert accepts
at most ``ceil(c * K * T / N)`` pairs (the usual definition; the paper gives none) and the rest are
dropped: the least probable first, or the latest first.

If experts choose (Zhou et al. 2022), every token applies to every expert, and each expert takes its
most probable ``ceil(c * K * T / N)`` tokens: all experts are equally loaded, and a token may get
any number of experts.

Shapes: T tokens, N experts, K experts per token, A pairs kept by this rank, D hidden.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

from moe.config.model import MoeConfig
from moe.nn.router import Agree, Routing, alone

DropPolicy = Literal["probability", "position"]
Chooser = Literal["tokens", "experts"]


@dataclass(frozen=True, slots=True)
class Capacity:
    """Who chooses, and how many pairs an expert accepts. ``factor`` None drops nothing.

    ``virtual_factor`` is the capacity factor at which a dropless run reports its drop rate. With
    ``reweigh``, the surviving pairs of a token share its full weight, if weights sum to one.
    """

    factor: float | None = None
    policy: DropPolicy = "probability"
    virtual_factor: float = 1.0
    chooser: Chooser = "tokens"
    reweigh: bool = True

    @property
    def measured_factor(self) -> float:
        """The capacity factor at which drop rates are measured."""
        return self.virtual_factor if self.factor is None else self.factor


DROPLESS = Capacity()


def assign(
    routing: Routing,
    capacity: Capacity,
    config: MoeConfig,
    valid_T: Tensor | None = None,
    agree: Agree = alone,
) -> tuple[Routing, Tensor]:
    """Return the final routing, and which of its pairs survive."""
    if capacity.chooser == "experts":
        routing = _to_all(routing, config)
        kept_TK = _taken(routing, capacity.factor or 1.0, config.top_k, valid_T)
    else:
        kept_TK = keep(routing, capacity, valid_T)
    all_kept = capacity.factor is None and capacity.chooser == "tokens"
    if not all_kept:
        kept_TK = agree(kept_TK)
    if config.sums_to_one and capacity.reweigh and not all_kept:
        return reweigh(routing, kept_TK, config.scale), kept_TK
    return routing._replace(weights=routing.weights * kept_TK), kept_TK


def slots(factor: float, assignments: int, experts: int) -> int:
    """Return the most pairs that one expert accepts; exact: 1.1 * 200 / 4 is 55, in floats it would
    be 56.
    """
    return math.ceil(Fraction(str(factor)) * assignments / experts)


def keep(routing: Routing, capacity: Capacity, valid_T: Tensor | None = None) -> Tensor:
    """Return which pairs survive, bool [T, K]; pairs of padding tokens never survive."""
    experts_TK = routing.experts
    alive_TK = torch.ones_like(experts_TK, dtype=torch.bool)
    if valid_T is not None:
        alive_TK &= valid_T[:, None]
    if capacity.factor is None:
        return alive_TK
    experts = routing.probabilities.shape[1]
    limit = slots(capacity.factor, int(alive_TK.sum()), experts)
    return alive_TK & (_rank_in_expert(routing, capacity.policy, alive_TK, experts) < limit)


def drop_rate(load_N: Tensor, factor: float) -> Tensor:
    """Return the share of pairs beyond capacity ``factor``: the drop rate, real or virtual."""
    assignments = int(load_N.sum())
    if assignments == 0:
        return load_N.new_zeros((), dtype=torch.float32)
    limit = slots(factor, assignments, load_N.numel())
    return (load_N - limit).clamp(min=0).sum() / assignments


def untaken(kept_TN: Tensor, valid_T: Tensor) -> Tensor:
    """Return the share of valid tokens that no expert took."""
    return (valid_T & ~kept_TN.any(dim=1)).sum() / valid_T.sum().clamp(min=1)


def reweigh(routing: Routing, kept_TK: Tensor, scale: float = 1.0) -> Routing:
    """Zero the weights of dropped pairs and let the surviving weights of a token sum to
    ``scale``.
    """
    weights_TK = routing.weights * kept_TK
    total_T1 = weights_TK.sum(dim=-1, keepdim=True)
    safe_T1 = torch.where(total_T1 > 0, total_T1, torch.ones_like(total_T1))
    return routing._replace(weights=weights_TK / safe_T1 * scale)


def _to_all(routing: Routing, config: MoeConfig) -> Routing:
    """Let every token apply to every expert with its score."""
    tokens, experts = routing.scores.shape
    everyone_TN = torch.arange(experts, device=routing.scores.device).expand(tokens, -1)
    return routing._replace(experts=everyone_TN, weights=routing.scores * config.scale)


def _taken(routing: Routing, factor: float, top_k: int, valid_T: Tensor | None) -> Tensor:
    """Return which applications the experts accept, bool [T, N]: the most probable of each
    expert.
    """
    alive_TN = torch.ones_like(routing.experts, dtype=torch.bool)
    if valid_T is not None:
        alive_TN &= valid_T[:, None]
    experts = routing.scores.shape[1]
    limit = slots(factor, int(alive_TN[:, 0].sum()) * top_k, experts)
    return alive_TN & (_rank_in_expert(routing, "probability", alive_TN, experts) < limit)


def _rank_in_expert(routing: Routing, policy: DropPolicy, alive_TK: Tensor, experts: int) -> Tensor:
    """Return the position of each pair in the queue of its expert, [T, K]; dead pairs come last."""
    expert_A = torch.where(alive_TK, routing.experts, experts).flatten()
    if policy == "probability":
        score_TK = routing.scores.detach().gather(1, routing.experts)
        first = score_TK.flatten().argsort(descending=True, stable=True)
    else:
        first = torch.arange(expert_A.numel(), device=expert_A.device)
    order = first[expert_A[first].argsort(stable=True)]
    sizes = torch.bincount(expert_A, minlength=experts + 1)
    starts = sizes.cumsum(0) - sizes
    places = torch.empty_like(expert_A)
    places[order] = torch.arange(order.numel(), device=order.device) - starts[expert_A[order]]
    return places.view_as(routing.experts)
