"""Prospects: every shape that has a plan comes up, in order, with a bound that no plan beats."""

from itertools import pairwise
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.planning.search.objectives import LeastStep
from moe.planning.search.prospects import Prospects
from moe.planning.search.question import Question
from moe.planning.search.shapes import Shape
from tests.every_plan import every_plan
from tests.questions import draw_question

CLOSE = 1 + 1e-9


def check(question: Question) -> int:
    """Hold the prospects of a question against its plans; return how many shapes have one."""
    quickest: dict[Shape, float] = {}
    for plan in every_plan(question):
        quickest[plan.shape] = min(plan.seconds, quickest.get(plan.shape, inf))
    hoped = [(shape, least) for least, shape in Prospects(question, LeastStep()).promising()]
    bounds = dict(hoped)
    assert len(bounds) == len(hoped)
    assert quickest.keys() <= bounds.keys()
    assert all(one <= other for (_, one), (_, other) in pairwise(hoped))
    for shape, seconds in quickest.items():
        assert bounds[shape] <= seconds * CLOSE
    return len(quickest)


@settings(deadline=None)
@given(st.integers(0, 10**9), st.booleans())
def test_no_bound_of_a_shape_is_above_its_best_plan(seed: int, training: bool) -> None:
    check(draw_question(seed, 5, 4, training))


@pytest.mark.parametrize(("seed", "training"), [(1000054, False), (77000307, True)])
def test_a_shape_without_a_way_hides_no_other(seed: int, training: bool) -> None:
    """Nodes without a link, and one micro-batch: a bound once was 0 x infinity, not a number."""
    assert check(draw_question(seed, training=training)) > 1
