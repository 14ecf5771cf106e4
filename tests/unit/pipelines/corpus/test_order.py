import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe.errors import DataError
from pipelines.corpus.order import rows_of_step


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 5))
def test_each_epoch_covers_every_row_once(total: int, batch: int, seed: int) -> None:
    steps = range(3 * total)
    stream = np.concatenate([rows_of_step(step, batch, seed, total) for step in steps])
    for epoch in stream[: 3 * batch * total].reshape(-1, total):
        assert sorted(epoch) == list(range(total))


@given(st.integers(1, 40), st.integers(0, 50), st.sampled_from([(12, 4), (6, 3), (8, 1)]))
def test_the_order_does_not_know_the_batch(total: int, step: int, sizes: tuple[int, int]) -> None:
    large, small = sizes
    parts = [
        rows_of_step(step * (large // small) + part, small, 7, total)
        for part in range(large // small)
    ]
    np.testing.assert_array_equal(rows_of_step(step, large, 7, total), np.concatenate(parts))


def test_seeds_and_epochs_differ() -> None:
    orders = {tuple(rows_of_step(step, 100, seed, 100)) for step in range(3) for seed in range(3)}
    assert len(orders) == 9


def test_the_order_is_the_same_for_ever() -> None:
    assert rows_of_step(0, 8, 0, 8).tolist() == [3, 2, 1, 6, 0, 7, 4, 5]


@pytest.mark.parametrize("arguments", [(-1, 1, 0, 1), (0, 0, 0, 1), (0, 1, -1, 1), (0, 1, 0, 0)])
def test_senseless_numbers_are_refused(arguments: tuple[int, int, int, int]) -> None:
    with pytest.raises(DataError, match="no order for step"):
        rows_of_step(*arguments)
