"""Clusters of similar things, and shares fitted by least squares, by their definitions."""

from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe.surgery.shrink.cluster import clusters
from moe.surgery.shrink.shares import _on_simplex
from tests.examples import examples


@given(st.integers(1, 9), st.data())
def test_clusters_part_all_things(count: int, data: st.DataObject) -> None:
    source = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    wanted = data.draw(st.integers(1, count))
    similarity = torch.rand(count, count, generator=source)
    found = clusters(similarity + similarity.T, wanted)
    assert len(found) == wanted
    assert sorted(chain.from_iterable(found)) == list(range(count))
    assert found == sorted(map(sorted, found))


def test_planted_clusters_are_found() -> None:
    kinds = torch.tensor([0, 1, 2, 1, 0, 2, 2])
    similarity = (kinds[:, None] == kinds[None, :]).float() * 0.5 + 0.3
    assert clusters(similarity, 3) == [[0, 4], [1, 3], [2, 5, 6]]


def test_linkage_is_the_average_and_not_the_closest_pair() -> None:
    similarity = torch.tensor(
        [[1.0, 0.9, 0.0, 0.0], [0.9, 1.0, 0.8, 0.0], [0.0, 0.8, 1.0, 0.5], [0.0, 0.0, 0.5, 1.0]]
    )
    assert clusters(similarity, 2) == [[0, 1], [2, 3]]


@given(st.integers(1, 5), st.integers(0, 500))
def test_shares_on_the_simplex_are_optimal(size: int, seed: int) -> None:
    source = torch.Generator().manual_seed(seed)
    root = torch.randn(size + 2, size, generator=source, dtype=torch.float64)
    wanted = torch.randn(size + 2, generator=source, dtype=torch.float64)
    normal, right = root.T @ root + 1e-3 * torch.eye(size, dtype=torch.float64), root.T @ wanted
    found = _on_simplex(normal, right)

    def loss(shares: torch.Tensor) -> float:
        return (shares @ normal @ shares / 2 - right @ shares).item()

    assert found.sum().item() == pytest.approx(1.0)
    assert found.min() >= 0
    if found.min() > 0:  # where no share was cut off, nothing on the simplex is better
        for _ in range(examples(20)):
            other = torch.rand(size, generator=source, dtype=torch.float64)
            assert loss(found) <= loss(other / other.sum()) + 1e-9
