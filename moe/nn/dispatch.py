"""Tokens to experts and back: which assignments survive, and in what order experts see them.

An assignment is one (token, expert) pair; a batch of T tokens makes T * K of them. With a capacity
factor c an expert takes at most ``ceil(c * K * T / N)`` of them (the usual definition; the paper
gives none) and the rest are dropped: the least probable first, or the latest first.

Shapes: T tokens, N experts, K experts per token, A assignments kept by this rank, D hidden.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

from moe.nn.router import Routing

DropPolicy = Literal["probability", "position"]


@dataclass(frozen=True, slots=True)
class Capacity:
    """How many assignments an expert takes. ``factor`` None drops nothing.

    ``virtual_factor`` is the capacity at which a dropless run reports its drop rate.
    """

    factor: float | None = None
    policy: DropPolicy = "probability"
    virtual_factor: float = 1.0


DROPLESS = Capacity()


def slots(factor: float, assignments: int, experts: int) -> int:
    """Return the most assignments one expert takes; 1.1 * 200 / 4 is 55, in floats 56."""
    return math.ceil(Fraction(str(factor)) * assignments / experts)


def counts(experts_TK: Tensor, experts: int, valid_T: Tensor | None = None) -> Tensor:
    """Return how many assignments each expert received, [N]; padding tokens do not count."""
    chosen = experts_TK if valid_T is None else experts_TK[valid_T]
    return torch.bincount(chosen.flatten(), minlength=experts)


def keep(routing: Routing, capacity: Capacity, valid_T: Tensor | None = None) -> Tensor:
    """Return which assignments survive, bool [T, K]; padding tokens never do."""
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
    """Return the share of assignments beyond ``factor``: what a capacity would drop, or did."""
    assignments = int(load_N.sum())
    if assignments == 0:
        return load_N.new_zeros((), dtype=torch.float32)
    limit = slots(factor, assignments, load_N.numel())
    return (load_N - limit).clamp(min=0).sum() / assignments


def combine(
    x_TD: Tensor,
    routing: Routing,
    kept_TK: Tensor,
    experts: Sequence[int],
    run: Callable[[int, Tensor], Tensor],
) -> Tensor:
    """Send tokens to the given experts and return their weighted sum, [T, D].

    ``run(expert, x)`` applies one expert. Assignments are sorted by expert once, so each expert
    sees one contiguous block; experts without tokens are not run.
    """
    order_A, sizes = _order(routing, kept_TK, experts)
    if not len(order_A):
        return x_TD * 0.0 + routing.weights.sum() * 0.0
    token_A = order_A // routing.experts.shape[1]
    blocks = torch.split(x_TD.index_select(0, token_A), sizes)
    outputs = [run(e, block) for e, block in zip(experts, blocks, strict=True) if len(block)]
    weights_A = routing.weights.flatten().index_select(0, order_A)
    weighted_AD = torch.cat(outputs) * weights_A[:, None]
    result_TD = weighted_AD.new_zeros(x_TD.shape).index_add(0, token_A, weighted_AD)
    return result_TD.to(x_TD.dtype)


def reweigh(routing: Routing, kept_TK: Tensor) -> Routing:
    """Zero the weight of dropped assignments and let the survivors of a token sum to one again."""
    weights_TK = routing.weights * kept_TK
    total_T1 = weights_TK.sum(dim=-1, keepdim=True)
    safe_T1 = torch.where(total_T1 > 0, total_T1, torch.ones_like(total_T1))
    return routing._replace(weights=weights_TK / safe_T1)


def _rank_in_expert(routing: Routing, policy: DropPolicy, alive_TK: Tensor, experts: int) -> Tensor:
    """Return each assignment's place in the queue of its expert, [T, K]; dead ones queue last."""
    expert_A = torch.where(alive_TK, routing.experts, experts).flatten()
    if policy == "probability":
        probability_TK = routing.probabilities.detach().gather(1, routing.experts)
        first = probability_TK.flatten().argsort(descending=True, stable=True)
    else:
        first = torch.arange(expert_A.numel(), device=expert_A.device)
    order = first[expert_A[first].argsort(stable=True)]
    sizes = torch.bincount(expert_A, minlength=experts + 1)
    starts = sizes.cumsum(0) - sizes
    places = torch.empty_like(expert_A)
    places[order] = torch.arange(order.numel(), device=order.device) - starts[expert_A[order]]
    return places.view_as(routing.experts)


def _order(routing: Routing, kept_TK: Tensor, experts: Sequence[int]) -> tuple[Tensor, list[int]]:
    """Return kept assignments of the given experts sorted by expert, and the size of each block."""
    nowhere = len(experts)
    place_N = torch.full((routing.probabilities.shape[1],), nowhere, device=kept_TK.device)
    place_N[list(experts)] = torch.arange(nowhere, device=kept_TK.device)
    place_A = torch.where(kept_TK, place_N[routing.experts], nowhere).flatten()
    sizes = torch.bincount(place_A, minlength=nowhere + 1)[:-1].tolist()
    return place_A.argsort(stable=True)[: sum(sizes)], sizes
