"""The learning rate by hand; buckets and what of them a replica owns; decay where no token came."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.step import buckets
from actors.step.buckets import Bucket, Owners, buckets_of
from actors.step.optimizer import RankOptimizer, learning_rate
from moe.config.model import ModelConfig
from moe.config.run import TrainSection
from moe.config.tensors import TensorSlice, held_by
from moe.nn.build import build
from moe.nn.decoder import Decoder
from moe.planning.plan.plan import Plan
from moe.surgery.initialise import initial
from tests import agreement, plans
from tests.examples import examples
from tests.routed import routed


def section(**changes: object) -> TrainSection:
    table = {"steps": 110, "global_batch": 1, "learning_rate": 1.0, "warmup_steps": 10}
    return TrainSection.model_validate(table | {"min_learning_rate": 0.1} | changes)


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 0.1), (4, 0.5), (9, 1.0), (10, 1.0), (60, 0.55), (110, 0.1), (500, 0.1)],
)
def test_warm_up_then_cosine(step: int, rate: float) -> None:
    assert learning_rate(section(), step) == pytest.approx(rate)


def test_a_quarter_of_the_cosine() -> None:
    quarter = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4))
    assert learning_rate(section(), 35) == pytest.approx(quarter)


def test_warm_up_ends_at_the_rate_itself() -> None:
    assert learning_rate(section(warmup_steps=1), 0) == 1.0


def decoder(plan: Plan | None = None, rank: int = 0, **options: Any) -> Decoder:
    config = routed(**options)
    share = None if plan is None else plan.share(rank)
    return build(config, lambda part: agreement.cut(whole(config, part), part), share)


def whole(config: ModelConfig, part: TensorSlice) -> torch.Tensor:
    return initial(config, part.whole, 0)


def test_a_matrix_without_tokens_still_decays_and_a_norm_does_not() -> None:
    model = decoder()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer = RankOptimizer(buckets_of(model), section(warmup_steps=0, weight_decay=0.1))
    optimizer.clear()
    optimizer.step(0)
    for name, weight in model.named_parameters():
        kept = 0.9 if weight.dim() > 1 else 1.0
        torch.testing.assert_close(weight.detach(), kept * before[name])


@settings(max_examples=examples(25))
@given(data=st.data(), replicas=st.integers(1, 5), most=st.sampled_from([1, 500, 2**24]))
def test_buckets_hold_everything_once_and_replicas_own_all_of_it(
    data: st.DataObject, replicas: int, most: int
) -> None:
    options = {"experts": 3, "shared_size": 7, "balance_bias": True, "score": "sigmoid"}
    config = routed(**options)
    plan = data.draw(plans.plans(config))
    rank = data.draw(st.integers(0, plan.ranks - 1))
    made = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buckets, "BUCKET_ELEMENTS", most)
        for replica in range(replicas):
            owners = Owners(replica, replicas, plan.gang_size)
            made.append(buckets_of(decoder(plan, rank, **options), owners))
    held = [part for part in held_by(config, plan.share(rank)) if part.role.trained]
    slots = [slot.part for bucket in made[0] for slot in bucket.slots]
    assert sorted(slots, key=str) == sorted(held, key=str)
    owned: dict[str, list[tuple[int, int]]] = {part.name: [] for part in held}
    for of_replica in made:
        for bucket in of_replica:
            assert len(bucket.slots) == 1 or bucket.slots[-1].stop <= most
            for part, elements, place in bucket.owned_slots():
                owned[part.name].append((elements.start, elements.stop))
                assert place.stop - place.start == elements.stop - elements.start
    for part in held:
        ranges = sorted(owned[part.name])
        assert [start for start, _ in ranges] == [0, *(stop for _, stop in ranges[:-1])]
        assert ranges[-1][1] == part.elements


@settings(max_examples=examples(25))
@given(data=st.data(), replicas=st.integers(1, 5))
def test_what_members_of_a_gang_hold_alike_lies_in_buckets_alike(
    data: st.DataObject, replicas: int
) -> None:
    """Sums over replicas depend on where a number lies; these must not differ between members."""
    config = routed()
    plan = data.draw(plans.plans(config).filter(lambda plan: plan.gang_size > 1))
    stage = data.draw(st.integers(0, len(plan.stages) - 1))

    def common(member: int) -> list[tuple[Any, slice]]:
        rank = stage * plan.gang_size + member
        owners = Owners(0, replicas, plan.gang_size)
        found: tuple[Bucket, ...] = buckets_of(decoder(plan, rank), owners)
        return [(bucket.slots, bucket.own) for bucket in found if bucket.kind.common]

    first = common(0)
    names = {slot.part.name for slots, _ in first for slot in slots}
    assert any(".router." in name for name in names)
    assert all(common(member) == first for member in range(1, plan.gang_size))


def test_parameters_and_gradients_are_views_of_the_buffers() -> None:
    model = decoder()
    made = buckets_of(model)
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
