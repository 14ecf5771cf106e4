"""The Hungarian method against every way to choose."""

from itertools import permutations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.planning.moves.hungarian import Costs, assign
from tests.examples import examples


@st.composite
def tables(draw: st.DrawFn) -> Costs:
    """Draw costs of a few rows and no fewer columns, often equal, negative ones among them."""
    rows = draw(st.integers(1, 5))
    columns = draw(st.integers(rows, 7))
    values = draw(st.sampled_from([st.integers(-2, 2), st.integers(-(10**15), 10**15)]))
    return np.array(
        draw(
            st.lists(
                st.lists(values, min_size=columns, max_size=columns), min_size=rows, max_size=rows
            )
        ),
        dtype=np.int64,
    )


@settings(max_examples=examples(300))
@given(tables())
def test_no_other_choice_is_cheaper(costs: Costs) -> None:
    rows, columns = costs.shape
    chosen = assign(costs)
    assert len(set(chosen)) == rows
    least = min(
        sum(costs[row, column] for row, column in enumerate(other))
        for other in permutations(range(columns), rows)
    )
    assert sum(costs[row, column] for row, column in enumerate(chosen)) == least


@settings(max_examples=examples(20))
@given(st.integers(1, 60), st.integers(0, 20), st.integers(0, 2**32 - 1))
def test_a_hidden_assignment_of_many_is_found(rows: int, spare: int, seed: int) -> None:
    source = np.random.default_rng(seed)
    hidden = source.permutation(rows + spare)[:rows]
    prices = source.integers(0, 1000, rows)[:, None] - source.integers(0, 1000, rows + spare)
    prices[:, np.setdiff1d(np.arange(rows + spare), hidden)] += 2000
    costs = prices + source.integers(1, 50, prices.shape)
    costs[np.arange(rows), hidden] = prices[np.arange(rows), hidden]
    assert list(assign(costs)) == hidden.tolist()
