"""Buckets of real tensors: views, and what the planner says of them is what they hold."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from actors.step.buckets import buckets_of
from actors.step.optimizer import RankOptimizer
from moe.checkpoint.records import MASTER, MOMENTS
from moe.config.ranges import TensorRange, whole_range
from moe.config.run import TrainSection
from moe.config.tensors import held_by, tensors
from moe.nn.build import build
from moe.nn.experts import grouped
from moe.planning.counts.memory import state_bytes
from moe.planning.counts.work import Parameters
from moe.planning.counts.workload import BF16, FLOAT32, Numerics, Workload
from moe.planning.moves.difference import Difference, diff
from moe.planning.moves.holdings import State
from moe.planning.moves.seating import Seating, seated_by_device
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat
from tests import plans, runs, saves
from tests.elements import elements_of
from tests.examples import examples
from tests.routed import routed

CONFIG = routed()
TRAINING = Workload(8, 1, 1)
TRAIN = TrainSection(steps=1, global_batch=1, learning_rate=1e-3)
DEVICES = [f"a/{number}" for number in range(8)]


@dataclass(frozen=True)
class Rank:
    """What a real rank holds: ranges of weights, and ranges of each moment, with their values."""

    held: Mapping[str, list[tuple[TensorRange, Tensor]]]

    @classmethod
    def of(cls, whole: saves.Whole, plan: Plan, seat: Seat, dtype: torch.dtype) -> "Rank":
        """Build the decoder, the buckets and the optimiser that an actor in this seat has."""
        share = plan.share(replace(seat, replica=0))
        decoder = build(whole.config, whole.weight, share, dtype=dtype)
        buckets = buckets_of(decoder, seat.replica, plan.replicas, plan.gang_size)
        optimizer = RankOptimizer(buckets, TRAIN)
        optimizer.restore(lambda own, name: cut(whole.moment(own.part, name), own), 1)
        weights = dict(decoder.named_parameters())
        parts = [part for part in held_by(whole.config, share) if part.elements]
        held = {"weights": [(whole_range(p), weights[p.name].detach().view(-1)) for p in parts]}
        for bucket in buckets:
            bucket.restore(lambda own: cut(whole.weight(own.part), own))
        states = list(optimizer.states())
        found = {
            kind: [(each.range, each.moments[kind]) for each in states if kind in each.moments]
            for kind in (*MOMENTS, MASTER)
        }
        return cls(held | found)

    @property
    def bytes(self) -> int:
        """Bytes of all that is held."""
        return sum(value.nbytes for ranges in self.held.values() for _, value in ranges)

    def spread(self) -> dict[tuple[str, str], Tensor]:
        """Return every tensor held at its whole size, NaN where the rank does not hold it."""
        found = {}
        for kind, ranges in self.held.items():
            for own, value in ranges:
                whole = torch.full((prod(own.part.shape),), torch.nan)
                whole[elements_of(own)] = value.float()
                found[kind, own.name] = whole
        return found


def cut(value: Tensor, own: TensorRange) -> Tensor:
    return value.reshape(-1)[own.start : own.stop]


KINDS: Mapping[State, tuple[str, ...]] = {
    "weights": ("weights",),
    "optimizer": MOMENTS,
    "masters": (MASTER,),
}
"""The tensors of each state that moves."""


def resized(
    before: Mapping[Seat, Rank], new: Plan, seating: Seating, found: Difference
) -> Iterator[tuple[Seat, dict[tuple[str, str], Tensor]]]:
    """Yield what each new seat has after the moves."""
    spread = {seat: rank.spread() for seat, rank in before.items()}
    for seat in new.seats:
        own = spread[seating.stays[seat]] if seat in seating.stays else {}
        after = {key: value.clone() for key, value in own.items()}
        for move in (each for each in found.moves if each.to == seat):
            at = elements_of(move.range)
            assert move.source is not None
            for kind in KINDS[move.state]:
                key = kind, move.range.name
                sent = spread[move.source][key][at]
                assert sent.isfinite().all(), "the giver does not hold it"
                value = after.setdefault(key, torch.full_like(spread[move.source][key], torch.nan))
                assert value[at].isnan().all(), "it was there, or sent twice"
                value[at] = sent
        yield seat, after


@settings(
    max_examples=examples(15),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(
    data=st.data(),
    config=saves.models(),
    numerics=st.sampled_from([(FLOAT32, torch.float32), (BF16, torch.bfloat16)]),
)
def test_kept_and_sent_slices_are_what_the_ranks_of_the_new_plan_hold(
    data: st.DataObject, config: plans.ModelConfig, numerics: tuple[Numerics, torch.dtype]
) -> None:
    """Byte for byte, and the bytes told are the bytes sent."""
    old, new = (data.draw(plans.replicated(config, DEVICES)) for _ in range(2))
    whole, seating = saves.Whole.of(config), seated_by_device(old, new)
    workload = replace(TRAINING, numerics=numerics[0])
    found = diff(config, old, new, workload, seating)
    before, wanted = (
        {seat: Rank.of(whole, plan, seat, numerics[1]) for seat in plan.seats}
        for plan in (old, new)
    )
    for seat, after in resized(before, new, seating, found):
        for kind, ranges in wanted[seat].held.items():
            for own, value in ranges:
                assert after[kind, own.name][elements_of(own)].equal(value.float())
    sizes = {
        (own.name, kind): value.element_size()
        for rank in wanted.values()
        for kind, ranges in rank.held.items()
        for own, value in ranges
    }
    assert found.bytes == sum(
        move.range.elements * sizes[move.range.name, kind]
        for move in found.moves
        for kind in KINDS[move.state]
    )
    told = (
        state_bytes(Parameters.of(held_by(config, new.share(seat))), workload, new.replicas)
        for seat in new.seats
    )
    bias = sum(8 * part.elements for part in tensors(config) if not part.role.trained)
    counted, there = sum(a + c for a, _, c in told), sum(rank.bytes for rank in wanted.values())
    assert there <= counted <= there + len(new.seats) * bias + 2 * len(new.seats)


def test_two_ranks_that_trade_a_column_by_hand() -> None:
    """One replica, gangs of two: heads 1 + 2 become 2 + 1, and nothing else moves."""
    config = routed(1)
    old, new = (runs.plan(config, (1,), heads, (2, 2)) for heads in ((1, 2), (2, 1)))
    named = [replace(rank, devices=(f"a/{n}",)) for n, rank in enumerate(old.stages[0].ranks)]
    old = replace(old, stages=(replace(old.stages[0], ranks=tuple(named)),))
    named = [replace(rank, devices=(f"a/{n}",)) for n, rank in enumerate(new.stages[0].ranks)]
    new = replace(new, stages=(replace(new.stages[0], ranks=tuple(named)),))
    found = diff(config, old, new, TRAINING, seated_by_device(old, new))
    moved: dict[str, Any] = {}
    for move in found.moves:
        assert (move.to, move.source) == (Seat(0, 0, 0), Seat(0, 0, 1))
        part = move.range.part
        assert move.range == whole_range(part)
        moved[part.name.split(".")[-2]] = (part.dim, part.start, part.stop)
    rows = {"q_proj": (0, 16, 32), "o_proj": (1, 16, 32)}
    assert moved == rows | {"k_proj": (0, 8, 16), "v_proj": (0, 8, 16)}


def test_parameters_and_gradients_are_views_of_the_buffers() -> None:
    model = build(CONFIG, saves.Whole.of(CONFIG).weight)
    made = buckets_of(model, 0, 1, 1)
    for bucket in made:
        bucket.weights.fill_(3.0)
        bucket.gradients.fill_(0.5)
    for name, weight in model.named_parameters():
        assert weight.detach().eq(3.0).all(), name
        assert weight.grad is not None
        assert weight.grad.eq(0.5).all()
    output = model(torch.zeros(1, 4, dtype=torch.int32)).values
    output.sum().backward()
    assert all(
        weight.grad is not None and weight.grad.untyped_storage().size() > weight.nbytes
        for weight in model.parameters()
    )


@pytest.mark.parametrize(("replicas", "dtype"), [(1, torch.float32), (3, torch.bfloat16)])
def test_experts_of_several_buckets_are_stacks(replicas: int, dtype: torch.dtype) -> None:
    """The grouped bank takes the buckets as they lie, and its gradients lie in them."""
    config = replace(routed(1, experts=12, expert_size=1024), hidden_size=512)
    model = build(config, lambda part: torch.full(part.shape, 0.01), dtype=dtype)
    experts = model.mixture(0).experts
    assert experts.stacks() is None
    buckets = buckets_of(model, 0, replicas, 1)
    assert len([bucket for bucket in buckets if bucket.kind.layer == 0]) > 1
    stacks = experts.stacks()
    assert stacks is not None
    assert all(map(grouped.aligned, stacks))
    experts.bank = "grouped"
    tokens = torch.arange(24)[None] * 4
    model(tokens).values.square().sum().backward()
    assert experts.stacks() is stacks
    for bucket in buckets:
        for slot in bucket.layout.slots:
            weight = model.get_parameter(slot.part.name)
            own = bucket.gradients[slot.start : slot.stop]
            assert weight.grad is not None
            assert weight.grad.data_ptr() == own.data_ptr()
            assert weight.grad.dtype == torch.float32
    busy = [expert for expert in experts.values() if expert.down_proj.weight.grad.any()]
    assert busy
