"""How the micro-batches of a step are spread over replicas."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.commands import StepInput
from actors.step.replicas import check_one_replica, check_step, part_of, part_of_step
from moe.config.run import TrainSection
from moe.errors import PlanError
from tests import plans, runs

PLAN = plans.single(plans.SMOLLM2)


@given(st.integers(1, 200), st.integers(1, 16))
def test_every_micro_batch_is_in_one_replica_and_none_has_two_more(total: int, count: int) -> None:
    parts = [part_of_step(total, replica, count) for replica in range(count)]
    assert [number for part in parts for number in part] == list(range(total))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_rows_go_with_their_micro_batches_and_labels_count_as_before() -> None:
    train = TrainSection(steps=1, global_batch=10, micro_batch=2, learning_rate=1.0)
    tokens = np.arange(20, dtype=np.int32).reshape(10, 2)
    parts = [part_of(StepInput(3, tokens, tokens + 1, 17), train, n, 2) for n in range(2)]
    assert [len(part.tokens) for part in parts if part.tokens is not None] == [4, 6]
    assert parts[1].tokens is not None
    assert parts[1].tokens.tolist() == tokens[4:].tolist()
    assert [(part.step, part.label_count) for part in parts] == [(3, 17)] * 2
    assert [part.documents for part in parts] == [None, None]


def test_numbers_of_documents_go_with_their_rows() -> None:
    train = TrainSection(steps=1, global_batch=3, micro_batch=1, learning_rate=1.0)
    documents = np.array([[0, 0, 1], [0, 1, -1], [0, -1, -1]], dtype=np.int32)
    whole = StepInput(0, None, None, 5, documents)
    parts = [part_of(whole, train, replica, 2) for replica in range(2)]
    found = [part.documents.tolist() for part in parts if part.documents is not None]
    assert found == [documents[:1].tolist(), documents[1:].tolist()]
    assert [part.token_count for part in (whole, *parts)] == [6, 3, 3]


def test_a_server_holds_one_replica() -> None:
    check_one_replica(PLAN)
    with pytest.raises(PlanError, match="has 2 replicas of its pipeline, a server holds one"):
        check_one_replica(runs.repeated(PLAN, 2))


def test_a_step_must_have_something_for_every_replica_and_stage() -> None:
    check_step(runs.repeated(PLAN, 3), "1f1b", 3)
    with pytest.raises(PlanError, match=r"a step has 2 micro-batches .* but the plan has 3"):
        check_step(runs.repeated(PLAN, 3), "1f1b", 2)
    stages = tuple(replace(PLAN.stages[0], layers=cut) for cut in ((0, 10), (10, 30)))
    two = runs.repeated(replace(PLAN, stages=stages), 2)
    check_step(two, "1f1b", 4)
    with pytest.raises(PlanError, match=r"3 micro-batches .*, 1 for replica 0: 1f1b of 2 stages"):
        check_step(two, "1f1b", 3)
    with pytest.raises(PlanError, match=r"zbv needs 2 spans of layers a stage"):
        check_step(two, "zbv", 8)
