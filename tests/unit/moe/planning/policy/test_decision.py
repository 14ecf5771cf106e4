"""What a run does next: a table of situations, and what holds in every one of them."""

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
PLANS: Mapping[Shrink, str] = {"replicas": "one replica", "stages": "one stage", "wait": "none"}


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
    }
    return Situation("four", SEATS, limits=LIMITS, **(given | changed))


def without(living: Mapping[Seat, Standing], *seats: Seat) -> dict[Seat, Standing]:
    return {seat: each for seat, each in living.items() if seat not in seats}


def limits(**changed: Any) -> Limits:
    return replace(LIMITS, **changed)


WHOLE = situation().living
TORN = {**WHOLE, B: replace(standing(B), unharmed=False)}
ONE_AHEAD = {**WHOLE, B: standing(B, 8)}
LEAVING = {"leaving": {C: 60.0}}

TABLE: list[tuple[str, Situation[str], Decision[str] | None, str]] = [
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
    ("two lost", situation(A, B), Heal(6, {A: C, B: D}, ""), "member 0 lost; all go on from step 6"),
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
    ("with its copy", situation(A, C), Restore(2, "four", ""), "member 0, which held its only copy"),
    ("no copies", situation(A, holders={}), None, ""),
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
        None,
        "",
    ),
    ("no room, wait", situation(B, room=frozenset()), None, ""),
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
    ("room for one of two", situation(A, B, room=frozenset({A})), None, ""),
    (
        "no room and no copy",
        situation(A, C, room=frozenset()),
        Restore(2, "one replica", ""),
        "which held its only copy, are both lost",
    ),
    ("spent", situation(B, failures=4), Stop(""), "4 losses .* which allows 3; .* max_failures"),
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
    ("leaving in a resize", situation(**LEAVING, resizing=True), GoOn(""), "is under way"),
    ("leaving and lost", situation(B, **LEAVING), Heal(6, {B: D}, ""), ""),
    ("wish", situation(wish="eight"), Resize("eight", ""), "another plan is wished for"),
    ("wish met", situation(wish="four"), GoOn(""), "nothing is wrong"),
    ("wish in a resize", situation(wish="eight", resizing=True), GoOn(""), "is under way"),
    ("wish and lost", situation(B, wish="eight"), Heal(6, {B: D}, ""), ""),
    ("wish and leaving", situation(**LEAVING, room=frozenset({C}), wish="eight"), None, ""),
    ("lost in a resize", situation(B, resizing=True), Heal(6, {B: D}, ""), ""),
]
