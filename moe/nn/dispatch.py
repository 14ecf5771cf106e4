"""Which (token, expert) pairs survive a capacity, and the order in which experts compute them.

A batch of T tokens makes T * K (token, expert) pairs. With a capacity factor c, an expert accepts
at most ``ceil(c * K * T / N)`` pairs (the usual definition; the paper gives none) and the rest are
dropped: the least probable first, or the latest first.

If experts choose (Zhou et al. 2022), every token applies to every expert, and each expert takes its
most probable ``ceil(c * K * T / N)`` tokens: all experts are equally loaded, and a token may get
any number of experts.

Everything here stays on the device of its tensors: shapes depend on sizes alone, never on the
routing, so the host waits for nothing.

Shapes: T tokens, N experts, K experts per token, A pairs, R rows (experts of this rank).
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Literal, TypeVar

import torch
from torch import Tensor

from moe.config.model import MoeConfig
from moe.nn.router import Agree, Routing, alone

DropPolicy = Literal["probability", "position"]
Chooser = Literal["tokens", "experts"]
Count = TypeVar("Count", int, Tensor)


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


@dataclass(frozen=True)
class Order:
    """The pairs of a batch by the row of the expert that computes them, tokens in order.

    ``places`` [A] are flat positions in [T, K]; ``ends`` [R], int32, says where the pairs of each
    row end. Pairs that were dropped, and those of experts of other ranks, come after the last end;
    A is T * K, or less where it is known beforehand that the rest is of that sort.
    """

    places: Tensor
    ends: Tensor
    tokens_count: int
    top_k: int

    @property
    def whole(self) -> bool:
        """Whether all pairs of the batch are there."""
        return self.places.numel() == self.tokens_count * self.top_k

    @cached_property
    def tokens(self) -> Tensor:
        """The token of each pair, [A]."""
        return self.places // self.top_k

    @cached_property
    def back(self) -> Tensor:
        """Where each place comes in a whole order, [A]: the inverse of ``places``."""
        numbers_A = torch.arange(self.places.numel(), device=self.places.device)
        return torch.empty_like(self.places).scatter_(0, self.places, numbers_A)

    @cached_property
    def alive(self) -> Tensor:
        """Which pairs this rank computes, bool [A]: those before the last end."""
        numbers_A = torch.arange(self.places.numel(), device=self.places.device)
        return numbers_A < self.ends[-1]


def order(
    experts_TK: Tensor, kept_TK: Tensor, row_of_N: Tensor, rows: int, room: int | None = None
) -> Order:
    """Sort the pairs by row.

    ``row_of_N`` gives the row of each expert; its last entry, and any expert this rank does not
    hold, has the row ``rows``. No expert has more than ``room`` kept pairs.
    """
    tokens, top_k = experts_TK.shape
    most = tokens * top_k if room is None else rows * min(tokens, room)
    unknown = row_of_N.numel() - 1
    known_A = torch.where(kept_TK, experts_TK, unknown).clamp_(max=unknown).flatten()
    row_A, places_A = row_of_N.index_select(0, known_A).sort(stable=True)
    numbers_R = torch.arange(rows, device=row_A.device, dtype=row_A.dtype)
    ends_R = torch.searchsorted(row_A, numbers_R, right=True, out_int32=True)
    return Order(places_A[:most], ends_R, tokens, top_k)


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


def slots(factor: float, assignments: Count, experts: int) -> Count:
    """Return the most pairs that one expert accepts; exact: 1.1 * 200 / 4 is 55, in floats it would
    be 56.

    ``factor`` counts to a millionth, so that the products of whole numbers stay below 2**63; above
    the number of experts it drops nothing, whatever it is.
    """
    share = min(Fraction(str(factor)).limit_denominator(10**6), Fraction(experts))
    return -(-share.numerator * assignments // (share.denominator * experts))


def room(capacity: Capacity, tokens: int, config: MoeConfig) -> int | None:
    """Return the most pairs that an expert accepts of so many tokens; padding among them lessens
    it. None if nothing is dropped.
    """
    factor = capacity.factor
    if factor is None and capacity.chooser == "tokens":
        return None
    return slots(factor or 1.0, tokens * config.top_k, config.experts)


def keep(routing: Routing, capacity: Capacity, valid_T: Tensor | None = None) -> Tensor:
    """Return which pairs survive, bool [T, K]; pairs of padding tokens never survive."""
    experts_TK = routing.experts
    alive_TK = torch.ones_like(experts_TK, dtype=torch.bool)
    if valid_T is not None:
        alive_TK &= valid_T[:, None]
    if capacity.factor is None:
        return alive_TK
    experts = routing.probabilities.shape[1]
    limit = slots(capacity.factor, alive_TK.sum(), experts)
    return alive_TK & (_rank_in_expert(routing, capacity.policy, alive_TK, experts) < limit)


def drop_rate(load_N: Tensor, factor: float) -> Tensor:
    """Return the share of pairs beyond capacity ``factor``: the drop rate, real or virtual."""
    assignments = load_N.sum()
    limit = slots(factor, assignments, load_N.numel())
    return (load_N - limit).clamp(min=0).sum() / assignments.clamp(min=1)


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
    limit = slots(factor, alive_TN[:, 0].sum() * top_k, experts)
    return alive_TN & (_rank_in_expert(routing, "probability", alive_TN, experts) < limit)


def _rank_in_expert(routing: Routing, policy: DropPolicy, alive_TK: Tensor, experts: int) -> Tensor:
    """Return the position of each pair in the queue of its expert, [T, K]; dead pairs come last."""
    expert_A = torch.where(alive_TK, routing.experts, experts).flatten()
    if policy == "probability":
        score_TK = routing.scores.detach().gather(1, routing.experts)
        first_A = score_TK.flatten().argsort(descending=True, stable=True)
        sorted_A, order_A = expert_A.index_select(0, first_A).sort(stable=True)
        order_A = first_A.index_select(0, order_A)
    else:
        sorted_A, order_A = expert_A.sort(stable=True)
    numbers = torch.arange(experts + 1, device=expert_A.device)
    starts = torch.searchsorted(sorted_A, numbers)
    places_A = torch.arange(order_A.numel(), device=expert_A.device)
    places_A = places_A - starts.index_select(0, sorted_A)
    return torch.empty_like(expert_A).scatter_(0, order_A, places_A).view_as(routing.experts)
