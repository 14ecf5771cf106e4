"""Rows of a tied embedding: each member of the gang holds the same at both ends of the pipeline."""

from dataclasses import replace

import pytest

from moe.errors import PlanError
from moe.planning.plan.plan import Plan
from tests import runs
from tests.plans import SMOLLM2

HALVES, THIRDS = (24576, 24576), (16384, 32768)


def ends(first: tuple[int, int] | None, last: tuple[int, int] | None) -> Plan:
    whole = runs.plan(SMOLLM2, (10, 10, 10), (2, 1))
    stages = [
        (whole if rows is None else runs.splitting(whole, rows)).stages[number]
        for number, rows in enumerate((first, THIRDS, last))
    ]
    return replace(whole, stages=tuple(stages))


@pytest.mark.parametrize("rows", [None, HALVES, THIRDS])
def test_equal_rows_at_both_ends_pass_whatever_lies_between(rows: tuple[int, int] | None) -> None:
    ends(rows, rows).check_model(SMOLLM2)


@pytest.mark.parametrize(("first", "last"), [(HALVES, THIRDS), (None, HALVES), (THIRDS, None)])
def test_unlike_rows_are_refused_where_the_model_is_tied(
    first: tuple[int, int] | None, last: tuple[int, int] | None
) -> None:
    plan = ends(first, last)
    with pytest.raises(PlanError, match="ties embedding and head, but rank 0 of the gang holds"):
        plan.check_model(SMOLLM2)
    plan.check_model(replace(SMOLLM2, tie_embeddings=False))


def test_a_span_of_all_rows_is_all_rows() -> None:
    plan = runs.plan(SMOLLM2, (10, 20))
    first = runs.splitting(plan, (SMOLLM2.vocab_size,)).stages[0]
    replace(plan, stages=(first, plan.stages[1])).check_model(SMOLLM2)
