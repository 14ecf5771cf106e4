"""The learning rate by hand; decay where no token came."""

import math

import pytest
import torch

from actors.step.buckets import buckets_of
from actors.step.optimizer import RankOptimizer, learning_rate
from moe.config.run import TrainSection
from moe.nn.build import build
from moe.surgery.initialise import initial
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


def test_a_matrix_without_tokens_still_decays_and_a_norm_does_not() -> None:
    config = routed()
    model = build(config, lambda part: initial(config, part, 0))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer = RankOptimizer(buckets_of(model, 0, 1, 1), section(warmup_steps=0, weight_decay=0.1))
    optimizer.clear()
    optimizer.step(0)
    for name, weight in model.named_parameters():
        kept = 0.9 if weight.dim() > 1 else 1.0
        torch.testing.assert_close(weight.detach(), kept * before[name])


def test_a_small_update_moves_the_master_and_in_time_the_weight() -> None:
    """Steps of 1e-8 are lost in bfloat16, whose numbers near 0.01 are 6e-5 apart; nor are they here
    if there are enough of them.
    """
    config = routed()
    model = build(config, lambda part: initial(config, part, 0), dtype=torch.bfloat16)
    buckets = buckets_of(model, 0, 1, 1)
    train = section(warmup_steps=0, weight_decay=0.0, learning_rate=1e-8, min_learning_rate=1e-8)
    optimizer = RankOptimizer(buckets, train)
    narrow = [bucket for bucket in buckets if bucket.kind.narrow]
    assert {bucket.weights.dtype for bucket in narrow} == {torch.bfloat16}
    assert {bucket.gradients.dtype for bucket in buckets} == {torch.float32}
    before = [(bucket.owned.clone(), bucket.weights.clone()) for bucket in narrow]

    def steps(count: int) -> None:
        for step in range(count):
            for bucket in buckets:
                bucket.gradients.fill_(1.0)
            optimizer.step(step)
            for bucket in buckets:
                bucket.publish()

    steps(1)
    for bucket, (master, weights) in zip(narrow, before, strict=True):
        moved = (bucket.owned != master) | (master.abs() > 0.05)  # where float32 ends, too
        assert moved.all()
        assert bucket.weights.eq(weights).float().mean() > 0.99
    optimizer._train = train.model_copy(update={"learning_rate": 1e-6, "min_learning_rate": 1e-6})
    steps(100)
    for bucket, (master, weights) in zip(narrow, before, strict=True):
        used = bucket.layout.slots[-1].stop
        torch.testing.assert_close(bucket.owned, master - 1e-4, rtol=1e-4, atol=2e-6)
        assert bucket.weights.equal(bucket.owned.bfloat16())
        assert bucket.weights[:used].ne(weights[:used]).float().mean() > 0.5
