"""Columns divided into equal sets, at random and by what they answer."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from moe.surgery.partition import assign, clusters, random_sets, strongest


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(sets=st.integers(1, 9), size=st.integers(1, 9), seed=st.integers(0, 99))
def test_sets_are_equal_and_hold_every_column_once(sets: int, size: int, seed: int) -> None:
    activity = torch.rand(sets * size, 5, generator=source(seed))
    for found in (
        random_sets(sets * size, sets, source(seed)),
        clusters(activity, sets, source(seed)),
    ):
        assert [len(each) for each in found] == [size] * sets
        assert sorted(torch.cat(found).tolist()) == list(range(sets * size))


def test_columns_that_answer_the_same_tokens_come_together() -> None:
    kinds = torch.arange(48) % 4
    activity = torch.zeros(48, 20)
    activity[torch.arange(48), kinds * 5] = 1.0
    activity += 0.05 * torch.rand(48, 20, generator=source())
    activity *= torch.rand(48, 1, generator=source(1)) + 0.1
    found = {frozenset(kinds[each].tolist()) for seed in range(1) for each in _best(activity, seed)}
    assert found == {frozenset({kind}) for kind in range(4)}


def _best(activity: torch.Tensor, seed: int) -> list[torch.Tensor]:
    """Return clusters from a start with one column of each kind."""
    for start in range(seed, 200):
        first = torch.randperm(48, generator=source(start))[:4]
        if len(set((first % 4).tolist())) == 4:
            return clusters(activity, 4, source(start))
    raise AssertionError


def test_a_full_set_takes_the_nearest_and_the_rest_go_elsewhere() -> None:
    distance = torch.tensor([[1.0, 9.0], [2.0, 8.0], [3.0, 9.0], [4.0, 7.0]])
    assert assign(distance).tolist() == [0, 0, 1, 1]


def test_the_strongest_have_the_largest_mean() -> None:
    activity = torch.tensor([[1.0, 1.0], [0.0, 9.0], [3.0, 0.0], [0.0, 0.0]])
    assert strongest(activity, 2).tolist() == [1, 2]
