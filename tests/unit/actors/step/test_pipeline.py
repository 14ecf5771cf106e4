"""What stages expect of each other, and what an answer proves, for every schedule."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from actors.epochs.lines import DOWN, UP, Route
from actors.step.pipeline import answers, expected
from moe.errors import PlanError
from moe.planning.schedules.schedule import FORWARD, SCHEDULES, WEIGHT, Order, actions


@st.composite
def orders(draw: st.DrawFn) -> tuple[Order, ...]:
    schedule = draw(st.sampled_from(SCHEDULES))
    chunks = {"gpipe": 1, "1f1b": 1, "zbv": 2}.get(schedule) or draw(st.integers(1, 3))
    try:
        return actions(schedule, draw(st.integers(1, 5)), draw(st.integers(1, 12)), chunks)
    except PlanError:
        assume(False)
        raise


def sent(order: Order, home: dict[int, int], stage: int) -> list[tuple[str, int, tuple[int, int]]]:
    """Return what a stage sends to others, in its order: way, receiver, key."""
    found = []
    for kind, chunk, micro_batch in order:
        way, target = (DOWN, chunk + 1) if kind == FORWARD else (UP, chunk - 1)
        if kind != WEIGHT and home.get(target, stage) != stage:
            found.append((way, home[target], (target, micro_batch)))
    return found


@given(orders())
def test_what_is_expected_is_what_is_sent_in_its_order(
    orders: tuple[Order, ...],
) -> None:
    home = {action.chunk: stage for stage, order in enumerate(orders) for action in order}
    for receiver in range(len(orders)):
        found = expected(orders, receiver)
        for sender, order in enumerate(orders):
            for way in (DOWN, UP):
                keys = [k for w, to, k in sent(order, home, sender) if (w, to) == (way, receiver)]
                assert found.get(Route(way, sender, receiver), []) == keys


@given(orders())
def test_an_answer_comes_after_what_it_proves(orders: tuple[Order, ...]) -> None:
    home = {action.chunk: stage for stage, order in enumerate(orders) for action in order}
    for stage in range(len(orders)):
        proved = []
        for (route, (chunk, micro_batch)), used in answers(orders, stage).items():
            order = orders[route.sender]
            source = chunk - 1 if route.way == DOWN else chunk + 1
            kinds = (FORWARD,) if route.way == DOWN else ("B", "I")
            (answered,) = [
                at
                for at, action in enumerate(order)
                if action.kind in kinds and action[1:] == (source, micro_batch)
            ]
            for key in used:
                (taken,) = [
                    at for at, a in enumerate(order) if a.kind in ("B", "I") and a[1:] == key
                ]
                assert taken <= answered
                assert home[key[0] + 1] == stage
            proved += used
        assert len(proved) == len(set(proved))


@pytest.mark.parametrize("stages", [2, 4])
def test_under_1f1b_a_gradient_is_let_go_of_two_micro_batches_later(stages: int) -> None:
    orders = actions("1f1b", stages, 16)
    for stage in range(1, stages):
        proofs = answers(orders, stage)
        for (route, (_, micro_batch)), used in proofs.items():
            assert route == Route(DOWN, stage - 1, stage)
            ahead = stages - stage + 1
            assert all(micro_batch - key[1] <= ahead for key in used)
        assert sum(map(len, proofs.values())) >= 16 - stages
