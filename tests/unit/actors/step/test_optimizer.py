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
