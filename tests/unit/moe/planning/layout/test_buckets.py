"""Buckets hold every trained tensor once, and every element of them has one owner."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.config.model import ModelConfig
from moe.config.tensors import EMBEDDING, held_by
from moe.planning.layout.buckets import BUCKET_ELEMENTS, BucketLayout, bucket_layouts
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat
from tests.examples import examples
from tests.plans import FINE, SMOLLM2, any_plans, configs, single, with_experts

SOME = settings(max_examples=examples(60))


@st.composite
def shares(draw: st.DrawFn) -> tuple[ModelConfig, Plan, Seat, tuple[BucketLayout, ...]]:
    """Draw a rank of a plan for a small model, and its buckets for a few replicas."""
    config = draw(configs())
    plan = draw(any_plans(config))
    seat, replicas = draw(st.sampled_from(list(plan.seats))), draw(st.integers(1, 5))
    share, narrow = plan.share(seat), draw(st.booleans())
    return config, plan, seat, bucket_layouts(config, share, replicas, plan.gang_size, narrow)


@SOME
@given(shares())
def test_buckets_hold_every_trained_tensor_once(
    case: tuple[ModelConfig, Plan, Seat, tuple[BucketLayout, ...]],
) -> None:
    config, plan, seat, layouts = case
    held = [part for part in held_by(config, plan.share(seat)) if part.role.trained]
    slots = [slot.part for layout in layouts for slot in layout.slots]
    assert sorted(slots, key=str) == sorted(held, key=str)
    for layout in layouts:
        assert layout.slots[0].start == 0
        assert all(one.stop == other.start for one, other in pairwise(layout.slots))
        assert all(slot.stop - slot.start == slot.part.elements for slot in layout.slots)


@SOME
@given(shares())
def test_every_element_has_one_owner(
    case: tuple[ModelConfig, Plan, Seat, tuple[BucketLayout, ...]],
) -> None:
    """Element by element: the owner is the replica in whose slice of the bucket it lies."""
    for layout in case[-1]:
        owners: list[int | None] = [None] * layout.elements
        for replica in range(layout.replicas):
            own = layout.own(replica)
            for owned in layout.owned(replica):
                slot = next(each for each in layout.slots if each.part == owned.range.part)
                assert own.start + owned.start == slot.start + owned.range.start
                assert owned.slice.stop - owned.slice.start == owned.range.elements > 0
                for element in range(owned.range.start, owned.range.stop):
                    at = slot.start + element
                    assert owners[at] is None
                    assert own.start <= at < own.stop
                    owners[at] = replica
        used = layout.slots[-1].stop
        assert None not in owners[:used]
        assert set(owners[used:]) <= {None}
        assert layout.slice_elements % 16 == 0


@SOME
@given(data=st.data(), config=configs(), replicas=st.integers(1, 5), narrow=st.booleans())
def test_what_members_of_a_gang_hold_alike_lies_in_buckets_alike(
    data: st.DataObject, config: ModelConfig, replicas: int, narrow: bool
) -> None:
    """Sums over replicas depend on where an element lies; that must not differ between members."""
    plan = data.draw(any_plans(config))
    stage = data.draw(st.integers(0, len(plan.stages) - 1))

    def common(member: int) -> list[Any]:
        share = plan.share(Seat(0, stage, member))
        layouts = bucket_layouts(config, share, replicas, plan.gang_size, narrow)
        return [layout.slots for layout in layouts if layout.kind.common]

    names = {slot.part.name for slots in common(0) for slot in slots}
    assert any("layernorm" in name for name in names) == (plan.gang_size > 1)
    assert all(common(member) == common(0) for member in range(1, plan.gang_size))


@pytest.mark.parametrize("config", [SMOLLM2, FINE, with_experts(SMOLLM2, 8)])
@pytest.mark.parametrize("narrow", [False, True])
def test_a_bucket_is_of_one_kind_and_no_larger_than_it_may_be(
    config: ModelConfig, narrow: bool
) -> None:
    share = single(config).share(Seat(0, 0, 0))
    layouts = bucket_layouts(config, share, replicas=2, gang=1, narrow=narrow)
    for layout in layouts:
        assert len(layout.slots) == 1 or layout.slots[-1].stop <= BUCKET_ELEMENTS
        for slot in layout.slots:
            assert layout.kind.decays == (len(slot.part.shape) > 1)
            gate = slot.part.role.part in ("router", "shared_gate")
            assert layout.kind.narrow == (narrow and layout.kind.decays and not gate)
            if layout.kind.layer is not None:
                assert f".layers.{layout.kind.layer}." in slot.part.name
    assert [layout.kind.end for layout in layouts].count(EMBEDDING) == 1
    of_layer = [each for each in layouts if each.kind.layer == 1 and each.kind.narrow == narrow]
    sizes = [layout.slots[-1].stop for layout in of_layer]
    assert (len(sizes) > 1) == (sum(sizes) > BUCKET_ELEMENTS)


def test_the_embedding_of_both_ends_lies_in_buckets_alike() -> None:
    config = replace(SMOLLM2, layers=2)
    (stage,) = single(config).stages
    stages = (replace(stage, layers=(0, 1)), replace(stage, layers=(1, 2)))
    plan = Plan(config.summary(), stages)
    first, last = (
        [each for each in bucket_layouts(config, plan.share(seat), 3, 1, True) if each.kind.end]
        for seat in plan.seats
    )
    assert [each.slots for each in first] == [each.slots for each in last]
    assert [each.kind.counted for each in (*first, *last)] == [True, False]


OLMOE = replace(
    SMOLLM2, layers=2, hidden_size=2048, heads=16, kv_heads=16, head_size=128, ffn_size=1024
)


def places_of_experts(config: ModelConfig, replicas: int) -> list[int]:
    """Return where the matrices of experts of one layer begin in the memory of their kind."""
    share = single(config).share(Seat(0, 0, 0))
    layouts = bucket_layouts(config, share, replicas, 1, narrow=False)
    found, before = [], 0
    for layout in (each for each in layouts if each.kind.layer == config.moe_layers[-1]):
        found += [before + s.start for s in layout.slots if s.part.role.expert is not None]
        before += layout.elements
    return found


@pytest.mark.parametrize("replicas", [1, 3, 6, 8, 9, 31])
@pytest.mark.parametrize(
    "config", [with_experts(replace(SMOLLM2, layers=2), 48), with_experts(OLMOE, 64)]
)
def test_experts_lie_at_even_distances_across_buckets(config: ModelConfig, replicas: int) -> None:
    places = places_of_experts(config, replicas)
    assert config.moe is not None
    size = config.hidden_size * config.moe.expert_size
    assert len(places) == 3 * config.moe.experts
    assert len(places) * size > BUCKET_ELEMENTS
    assert {after - before for before, after in pairwise(places)} == {size}


@pytest.mark.parametrize("replicas", [1, 2, 4, 8, 64])
def test_buckets_are_full_where_their_slices_are_even(replicas: int) -> None:
    """What checkpoints of before were cut by stays as it was."""
    share = single(with_experts(OLMOE, 64)).share(Seat(0, 0, 0))
    layouts = bucket_layouts(with_experts(OLMOE, 64), share, replicas, 1, narrow=False)
    one, *others = [layout for layout in layouts if layout.kind.layer == 1]
    for before, after in pairwise([one, *others]):
        following = after.slots[0].part.elements
        assert before.slots[-1].stop + following > BUCKET_ELEMENTS
    assert len(others) == 25


def test_a_bucket_is_larger_where_it_could_not_be_cut_evenly() -> None:
    """A matrix of 54 * 2**20 elements has no 5 even slices; 5 matrices have."""
    config = replace(with_experts(replace(SMOLLM2, hidden_size=4608, ffn_size=12_288), 4), layers=2)
    size = 4608 * 12_288
    assert size > BUCKET_ELEMENTS
    layouts = bucket_layouts(config, single(config).share(Seat(0, 0, 0)), 5, 1, narrow=False)
    slots = [[s for s in each.slots if s.part.role.expert is not None] for each in layouts]
    assert [len(each) for each in slots if each] == 2 * [5, 5, 2]
    places = places_of_experts(config, 5)
    assert {after - before for before, after in pairwise(places)} == {size}
