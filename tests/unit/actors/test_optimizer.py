"""The learning rate by hand, and weight decay where no token came."""

import math

import pytest
import torch

from actors.optimizer import ShareOptimizer, learning_rate
from moe.config.run import TrainSection


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
    matrix = torch.nn.Parameter(torch.full((2, 2), 3.0))
    norm = torch.nn.Parameter(torch.full((2,), 3.0))
    parameters = {"matrix": matrix, "norm": norm}
    train = section(warmup_steps=0, weight_decay=0.1)
    optimizer = ShareOptimizer(parameters, frozenset(parameters), train)
    optimizer.clear()
    optimizer.step(0)
    assert matrix.detach().allclose(torch.tensor(2.7))
    assert norm.detach().equal(torch.full((2,), 3.0))
