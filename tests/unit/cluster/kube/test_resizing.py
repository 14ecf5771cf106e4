"""What is done next to resize a run and its groups of pods: a table of what is wished and seen."""

from dataclasses import replace
from typing import Any

import pytest

from cluster.kube.resizing import Seen, Wanted, left, next_step
from cluster.kube.worker_groups import GroupSeen, Size

WORDS = "--replicas 4"


def names(count: int, prefix: str = "p") -> frozenset[str]:
    return frozenset(f"{prefix}{number}" for number in range(count))


def group(most: int, pods: int, busy: int, ready: int | None = None, **more: Any) -> GroupSeen:
    """Return a group of equal pods, the first of which have ranks and the first of which run."""
    least = more.pop("least", most)
    runs = pods if ready is None else ready
    size = Size(most, least, more.pop("leaving", ()))
    return GroupSeen(
        "gpu-0", size, more.pop("floating", False), names(pods), names(runs), names(busy)
    )


def seen(*groups: GroupSeen, **more: Any) -> Seen:
    return Seen(groups, **{"taken": WORDS, **more})


def wanted(pods: int, met: bool = False) -> Wanted:
    return Wanted(WORDS, {"gpu-0": pods}, met)


GROWS, SHRINKS = wanted(4), wanted(1)
GROWN, SHRUNK = wanted(4, met=True), wanted(1, met=True)


@pytest.mark.parametrize(
    ("wish", "there", "what", "sizes"),
    [
        # To grow: a claim, room for pods, the pods, the run. Nothing is left to do then.
        (GROWS, seen(group(2, 2, 2), taken=None), "take", {}),
        (GROWS, seen(group(2, 2, 2)), "enlarge", {"gpu-0": Size(4, 4)}),
        (GROWS, seen(group(4, 2, 2)), "wait", {}),
        (GROWS, seen(group(4, 4, 2, ready=3)), "wait", {}),
        (GROWS, seen(group(4, 4, 2)), "ask", {}),
        (GROWN, seen(group(4, 4, 4)), "done", {}),
        # More pods than are wished for, as one that was cut off left them, stay until the end.
        (GROWS, seen(group(6, 6, 2)), "ask", {}),
        (GROWN, seen(group(6, 6, 4)), "reduce", {"gpu-0": Size(4, 4, ("p4", "p5"))}),
        # To shrink: the run first, then the pods without ranks, those that do not run before.
        (SHRINKS, seen(group(3, 3, 3), taken=None), "take", {}),
        (SHRINKS, seen(group(3, 3, 3)), "ask", {}),
        (SHRINKS, seen(group(3, 3, 3, ready=2)), "ask", {}),
        (SHRUNK, seen(group(3, 3, 3)), "look", {}),
        (SHRUNK, seen(group(3, 3, 1)), "reduce", {"gpu-0": Size(1, 1, ("p1", "p2"))}),
        (SHRUNK, seen(group(3, 3, 1, ready=2)), "reduce", {"gpu-0": Size(1, 1, ("p2", "p1"))}),
        (SHRUNK, seen(group(1, 3, 1, leaving=("p1", "p2"))), "wait", {}),
        (SHRUNK, seen(group(1, 1, 1, leaving=("p1", "p2"))), "settle", {"gpu-0": Size(1, 1)}),
        (SHRUNK, seen(group(1, 1, 1)), "done", {}),
        (SHRUNK, seen(group(1, 1, 1), taken=None), "done", {}),
        # A group whose size is an autoscaler's: it is told of a least number while pods come.
        (GROWS, seen(group(2, 2, 2, least=0, floating=True)), "enlarge", {"gpu-0": Size(4, 4)}),
        (GROWS, seen(group(4, 2, 2, least=0, floating=True)), "enlarge", {"gpu-0": Size(4, 4)}),
        (GROWS, seen(group(6, 2, 2, least=0, floating=True)), "enlarge", {"gpu-0": Size(6, 4)}),
        (GROWS, seen(group(4, 4, 2, floating=True)), "ask", {}),
        (GROWN, seen(group(4, 4, 4, floating=True)), "reduce", {"gpu-0": Size(4, 0)}),
        (GROWN, seen(group(4, 4, 4, least=0, floating=True)), "done", {}),
        (SHRINKS, seen(group(3, 3, 3, least=0, floating=True)), "ask", {}),
        (SHRUNK, seen(group(3, 3, 1, least=0, floating=True)), "reduce", {"gpu-0": Size(1, 0)}),
        (
            SHRUNK,
            seen(group(1, 1, 1, least=0, floating=True, leaving=("p1",))),
            "done",  # the names there are the autoscaler's
            {},
        ),
        # What is refused, before anything is claimed.
        (GROWS, seen(group(2, 2, 2), taken="--replicas 3"), "refuse", {}),
        (GROWS, seen(group(2, 2, 2), taken=None, admitted=True), "refuse", {}),
        (SHRINKS, seen(group(2, 2, 2), admitted=True), "ask", {}),
        (SHRINKS, seen(group(3, 3, 2), others=("another",)), "refuse", {}),
        (Wanted(WORDS, {"gpu-9": 1}, met=False), seen(group(2, 2, 2)), "refuse", {}),
    ],
)
def test_the_next_step_follows_from_what_is_wished_and_seen(
    wish: Wanted, there: Seen, what: str, sizes: dict[str, Size]
) -> None:
    step = next_step(wish, there)
    assert (step.what, dict(step.sizes)) == (what, sizes)


def test_a_plan_that_moves_to_other_pods_has_them_before_it_gives_back_its_own() -> None:
    """One group for another: the new one grows, the run moves, the old one goes."""
    old = replace(group(2, 2, 2), name="cpu-0")
    new = replace(group(0, 0, 0), name="cpu-1")
    moves = Wanted(WORDS, {"cpu-0": 0, "cpu-1": 2}, met=False)
    step = next_step(moves, seen(old, new))
    assert (step.what, dict(step.sizes)) == ("enlarge", {"cpu-1": Size(2, 2)})
    come = replace(group(2, 2, 0), name="cpu-1")
    assert next_step(moves, seen(old, come)).what == "ask"
    left_, taken = replace(group(2, 2, 0), name="cpu-0"), replace(group(2, 2, 2), name="cpu-1")
    step = next_step(replace(moves, met=True), seen(left_, taken))
    assert (step.what, dict(step.sizes)) == ("reduce", {"cpu-0": Size(0, 0, ("p0", "p1"))})


def test_a_wait_says_for_which_pods_and_why() -> None:
    step = next_step(GROWS, seen(group(4, 3, 2), trouble="1 of 3 pods: not scheduled"))
    assert step.words == "3 of 4 pods of gpu-0 run: 1 of 3 pods: not scheduled"


def test_a_refusal_says_what_to_do() -> None:
    other = next_step(GROWS, seen(group(2, 2, 2), taken="--replicas 3"))
    assert "another resize is under way (--replicas 3)" in other.words
    queued = next_step(GROWS, seen(group(2, 2, 2), admitted=True))
    assert "Kueue has admitted the pods that the job began with, and gpu-0" in queued.words


def test_what_is_left_is_told_with_the_way_on_and_the_way_back() -> None:
    said = left(GROWS, seen(group(4, 3, 2)))
    assert said.startswith("the run goes on under its old plan; gpu-0 asks for 4 pods, 3 run, 2")
    assert "The same command goes on from here" in said
    assert left(SHRUNK, seen(group(4, 3, 1))).startswith("the run has the plan")
