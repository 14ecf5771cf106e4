"""What a run does next: a table of situations, and what holds in every one of them."""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.config.run.elastic import ElasticSection, Shrink
from moe.errors import PlanError
from moe.planning.plan.seats import Seat, Seats
from moe.planning.policy.decision import (
    Decision,
    GoOn,
    Heal,
    Replan,
    Resize,
    Restore,
    Stop,
    Wait,
    decide,
)
from moe.planning.policy.holders import holders
from moe.planning.policy.situation import Limits, Situation, Standing
from tests.examples import examples

SEATS = tuple(Seats(2, 2, 1))
A, B, C, D = SEATS
HELD_BY = {A: C, B: D, C: A, D: B}
LIMITS = Limits(max_failures=3, hang_seconds=30.0, on_shrink="replicas", move_seconds=20.0)
COPIED = frozenset({4, 6})
PLANS: Mapping[Shrink, str] = {"replicas": "one replica", "stages": "one stage"}


def standing(seat: Seat, step: int = 7, copies: frozenset[int] = COPIED) -> Standing:
    """Return a rank that has done a step and holds its copies, and those of one other seat."""
    (held,) = (each for each, holder in HELD_BY.items() if holder == seat)
    return Standing(step, True, copies, {held: copies})


def situation(*lost: Seat, **changed: Any) -> Situation[str]:
    """Return a run of four ranks after step 7, with copies of steps 4 and 6, room for the lost."""
    living = {seat: standing(seat) for seat in SEATS if seat not in lost}
    given: dict[str, Any] = {
        "living": living,
        "room": frozenset(lost),
        "holders": HELD_BY,
        "together": not lost,
        "failures": int(bool(lost)),
        "checkpoint": 2,
        "smaller": PLANS.get,
        "limits": LIMITS,
    }
    return Situation("four", SEATS, **(given | changed))


def without(living: Mapping[Seat, Standing], *seats: Seat) -> dict[Seat, Standing]:
    return {seat: each for seat, each in living.items() if seat not in seats}


def limits(**changed: Any) -> Limits:
    return replace(LIMITS, **changed)


WHOLE = situation().living
TORN = {**WHOLE, B: replace(standing(B), unharmed=False)}
ONE_AHEAD = {**WHOLE, B: standing(B, 8)}
LEAVING = {"leaving": {C: 60.0}}

TABLE: list[tuple[str, Situation[str], Decision[str], str]] = [
    ("nothing", situation(), GoOn(""), "nothing is wrong"),
    ("groups broke", situation(together=False), GoOn(""), "no rank is lost and all stand at one"),
    ("in one step", situation(living=ONE_AHEAD), GoOn(""), "nothing is wrong"),
    (
        "apart",
        situation(living={**WHOLE, B: standing(B, 8, frozenset({6, 7}))}, together=False),
        Heal(7, {}, ""),
        "a step failed half way; all go on from step 7",
    ),
    ("torn", situation(living=TORN), Heal(6, {}, ""), "a step failed half way; all go on from"),
    ("lost", situation(B), Heal(6, {B: D}, ""), "replica 0 stage 1 member 0 lost; all go on from"),
    (
        "two lost",
        situation(A, B),
        Heal(6, {A: C, B: D}, ""),
        "member 0 lost; all go on from step 6",
    ),
    (
        "one copy is older",
        situation(B, living=without({**WHOLE, D: standing(D, 7, frozenset({4}))}, B)),
        Heal(4, {B: D}, ""),
        "step 4",
    ),
    (
        "a copy of where all stand",
        situation(B, living=without({k: standing(k, 6) for k in WHOLE}, B)),
        Heal(6, {B: D}, ""),
        "step 6",
    ),
    (
        "with its copy",
        situation(A, C),
        Restore(2, "four", ""),
        "member 0, which held its only copy",
    ),
    (
        "never copied",
        situation(B, living={k: Standing(1) for k in (A, C, D)}, checkpoint=0),
        Restore(0, "four", ""),
        "lost before a copy of it was whole: back to the beginning",
    ),
    (
        "without copies",
        situation(B, living={k: Standing(1) for k in (A, C, D)}, holders={}),
        Restore(2, "four", ""),
        "is lost and the run keeps no copies: back to the checkpoint of step 2",
    ),
    (
        "no common boundary",
        situation(living={**TORN, C: standing(C, 9, frozenset({9}))}),
        Restore(2, "four", ""),
        "no step boundary in common",
    ),
    ("all", situation(*SEATS), Restore(2, "four", ""), "no rank is left: back to the checkpoint"),
    (
        "no room",
        situation(B, room=frozenset()),
        Replan(6, "one replica", {B: D}, ""),
        "no room: fewer replicas, from step 6",
    ),
    (
        "no room, stages first",
        situation(B, room=frozenset(), limits=limits(on_shrink="stages")),
        Replan(6, "one stage", {B: D}, ""),
        "no room: fewer stages, from step 6",
    ),
    (
        "no room, wait",
        situation(B, room=frozenset(), limits=limits(on_shrink="wait")),
        Wait(""),
        "no room; the run waits for nodes",
    ),
    (
        "no room, no plan",
        situation(B, room=frozenset(), smaller={}.get),
        Wait(""),
        "no plan fits what is left; the run waits for nodes",
    ),
    (
        "no room, no replica less",
        situation(B, room=frozenset(), smaller={"stages": "one stage"}.get),
        Replan(6, "one stage", {B: D}, ""),
        "no room: fewer stages",
    ),
    (
        "room for one of two",
        situation(A, B, room=frozenset({A})),
        Replan(6, "one replica", {A: C, B: D}, ""),
        "",
    ),
    (
        "all hung",
        situation(living={}, late=dict.fromkeys(SEATS, 30.0), room=frozenset(SEATS)),
        Restore(2, "four", "", SEATS),
        "no rank is left",
    ),
    (
        "no room and no copy",
        situation(A, C, room=frozenset()),
        Restore(2, "one replica", ""),
        "which held its only copy, are both lost",
    ),
    (
        "spent",
        situation(B, failures=4),
        Stop(""),
        "4 losses .* which allows 3; .*elastic.max_failures",
    ),
    ("spent by groups", situation(together=False, failures=4), Stop(""), "4 losses"),
    ("spent before", situation(failures=4), GoOn(""), "nothing is wrong"),
    (
        "late",
        situation(living=without(WHOLE, B), late={B: 2.0}),
        Wait(""),
        "member 0 silent for 2.0 s; lost after 30 s",
    ),
    ("late beside a loss", situation(A, living=without(WHOLE, A, B), late={B: 2.0}), Wait(""), ""),
    (
        "hung",
        situation(living=without(WHOLE, B), late={B: 31.0}, room=frozenset({B})),
        Heal(6, {B: D}, "", (B,)),
        "lost; all go on from step 6",
    ),
    (
        "leaving",
        situation(**LEAVING, room=frozenset({C})),
        Resize("four", "", frozenset({C})),
        "replica 1 stage 0 member 0 moved off a node that goes in 60 s",
    ),
    (
        "leaving, nobody said when",
        situation(leaving={C: math.inf}, room=frozenset({C})),
        Resize("four", "", frozenset({C})),
        "moved off a node that goes",
    ),
    (
        "leaving, no room",
        situation(**LEAVING),
        Resize("one replica", "", frozenset({C})),
        "no room elsewhere: fewer replicas",
    ),
    (
        "leaving, no plan",
        situation(**LEAVING, smaller={}.get),
        GoOn(""),
        "goes in 60 s, and nowhere else to go",
    ),
    (
        "leaving too soon",
        situation(leaving={C: 9.0}, room=frozenset({C})),
        GoOn(""),
        "goes in 9 s, too soon to move in 20 s",
    ),
    ("leaving and lost", situation(B, **LEAVING), Heal(6, {B: D}, ""), ""),
    ("wish", situation(wish="eight"), Resize("eight", ""), "another plan is wished for"),
    ("wish met", situation(wish="four"), GoOn(""), "nothing is wrong"),
    ("wish and lost", situation(B, wish="eight"), Heal(6, {B: D}, ""), ""),
    (
        "wish and leaving",
        situation(**LEAVING, room=frozenset({C}), wish="eight"),
        Resize("four", "", frozenset({C})),
        "moved off",
    ),
]


@pytest.mark.parametrize(
    ("given", "expected", "words"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_the_table(given: Situation[str], expected: Decision[str], words: str) -> None:
    decided = decide(given)
    assert replace(decided, reason="") == expected
    assert re.search(words, decided.reason)
    assert decided.reason
    assert len(decided.reason) < 160


def drawn(random: Random) -> Situation[str]:
    """Draw a run of any size in any state, also in states that no engine should bring about."""
    seats = tuple(Seats(random.randrange(1, 4), random.randrange(1, 4), random.randrange(1, 3)))
    held_by = holders({seat: str(random.randrange(3)) for seat in seats}) or {}
    held_by = held_by if random.random() < 0.8 else {}
    chance = random.choice([0.0, 0.1, 0.5])
    gone = {seat for seat in seats if random.random() < chance}
    late = {seat: random.uniform(0, 60) for seat in seats if random.random() < chance / 4}
    last, newest = random.randrange(9), random.randrange(9)

    def copies() -> frozenset[int]:
        whole = frozenset({newest, max(0, newest - 2)})
        return frozenset(random.sample(sorted(whole), random.choice([1, len(whole)])))

    living = {}
    for seat in seats:
        if seat in gone or seat in late:
            continue
        holds = {each: copies() for each, holder in held_by.items() if holder == seat}
        done, unharmed = last + (random.random() < 0.1), random.random() < 0.9
        living[seat] = Standing(done, unharmed, copies() if held_by else frozenset(), holds)
    shrink: Shrink = random.choice(["replicas", "stages", "wait"])
    return Situation(
        "plan",
        seats,
        living,
        Limits(random.choice([0, 3]), 30.0, shrink, 10.0),
        late,
        held_by,
        frozenset(seats) if random.random() < 0.6 else frozenset(random.sample(seats, 1)),
        random.choice([{}, PLANS]).get,
        together=random.random() < 0.7,
        failures=random.choice([0, 0, 1, 4]),
        checkpoint=random.randrange(4),
        leaving={seats[0]: random.uniform(0, 20)} if random.random() < 0.2 else {},
        wish=random.choice([None, "plan", "another"]),
    )


@settings(max_examples=examples(400))
@given(seed=st.integers(0, 2**60))
def test_a_decision_can_be_carried_out(seed: int) -> None:
    """Every situation has one, and it names only what is there."""
    given = drawn(Random(seed))
    decided = decide(given)
    assert decided == decide(given)
    lost = set(given.lost)
    match decided:
        case Heal() | Replan():
            for standing in given.living.values():
                assert decided.step in standing.boundaries
                assert decided.step <= max(standing.copies | {standing.steps_done})
            assert decided.gives.keys() == lost
            for seat, holder in decided.gives.items():
                assert decided.step in given.living[holder].holds[seat]
            assert set(decided.ends) == set(given.hung)
            assert isinstance(decided, Replan) or lost <= given.room
            assert isinstance(decided, Heal) or decided.shape in PLANS.values()
        case Restore():
            assert decided.step == given.checkpoint
            assert not any(healable(given, step) for step in range(12))
            assert lost <= given.room or decided.shape in PLANS.values()
        case Resize():
            assert not lost
            assert decided.shape != given.shape or decided.away
        case GoOn():
            steps = {standing.steps_done for standing in given.living.values()}
            assert not lost
            assert all(standing.unharmed for standing in given.living.values())
            assert max(steps) - min(steps) <= given.together
        case Stop():
            assert given.failures > given.limits.max_failures
        case Wait():
            assert given.unsettled or not lost <= given.room


def healable(given: Situation[str], step: int) -> bool:
    """Tell by trying whether all ranks find their state of a step in memory."""
    held = {
        seat
        for standing in given.living.values()
        for seat, steps in standing.holds.items()
        if step in steps
    }
    stand = all(step in each.boundaries for each in given.living.values())
    return bool(given.living) and stand and set(given.lost) <= held


@settings(max_examples=examples(200))
@given(seed=st.integers(0, 2**60))
def test_no_newer_boundary_is_left_out(seed: int) -> None:
    given = drawn(Random(seed))
    decided = decide(given)
    if isinstance(decided, Heal | Replan):
        assert decided.step == max(step for step in range(12) if healable(given, step))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"living": {Seat(5, 0, 0): Standing(1)}}, "replica 5 .* is living but is no seat"),
        ({"leaving": {Seat(5, 0, 0): 1.0}}, "replica 5 .* is leaving but is no seat"),
        ({"late": {A: 1.0}}, "replica 0 stage 0 member 0 is living and late"),
    ],
)
def test_a_situation_that_cannot_be_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        situation(**given)
    with pytest.raises(PlanError, match="no seat to decide about"):
        Situation("none", (), {}, LIMITS)


def test_limits_are_those_of_the_run_file() -> None:
    section = ElasticSection(max_failures=2, hang_seconds=7.0, on_shrink="wait")
    assert Limits.of(section, 3.0) == Limits(2, 7.0, "wait", 3.0)
