"""What is seen of Ray's nodes, from answers as Ray gives them."""

import math
import time
from collections.abc import Callable

from cluster.watch import Leaving, Nodes, NodeWatch, seen

ROWS = [{"NodeID": "a", "Alive": True}, {"NodeID": "b", "Alive": True}]


def test_a_node_that_is_told_to_leave_lives_until_it_is_gone() -> None:
    before = seen(ROWS, {})
    told = seen(ROWS, {"b": 1_005_500})
    gone = seen([*ROWS[:1], {"NodeID": "b", "Alive": False}], {"b": 1_005_500})
    assert (before.living, before.staying) == ({"a", "b"}, {"a", "b"})
    assert (told.living, told.staying) == ({"a", "b"}, {"a"})
    assert told.leaving(1000.0) == (Leaving("b", 5.5),)
    assert told.leaving(2000.0) == (Leaving("b", 0.0),)
    assert gone == Nodes(frozenset("a"))


def test_the_first_to_go_is_first_and_one_without_a_deadline_last() -> None:
    rows = [*ROWS, {"NodeID": "c", "Alive": True}]
    nodes = seen(rows, {"a": 0, "b": 30_000, "c": 20_000})
    assert nodes.leaving(10.0) == (Leaving("c", 10.0), Leaving("b", 20.0), Leaving("a", math.inf))


def test_the_watch_sees_what_changes_and_outlives_a_ray_that_does_not_answer() -> None:
    answers = [Nodes(frozenset("a")), RuntimeError("the head is away"), Nodes(frozenset("ab"))]

    def asked() -> Nodes:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, RuntimeError):
            raise answer
        assert isinstance(answer, Nodes)
        return answer

    watch = NodeWatch(asked, seconds=0.01)
    try:
        assert watch.nodes == Nodes(frozenset("a"))
        until(lambda: watch.nodes == Nodes(frozenset("ab")))
        answers[0] = Nodes(frozenset("ab"), {"b": time.time() + 60})
        until(lambda: bool(watch.leaving()))
        (leaving,) = watch.leaving()
        assert leaving.node == "b"
        assert 55 < leaving.seconds <= 60
    finally:
        watch.close()


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)
