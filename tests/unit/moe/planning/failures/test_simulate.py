"""Goodput against a second-by-second simulation, Young's formula, and sums that must hold."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.errors import PlanError
from moe.planning.failures.goodput import Goodput
from moe.planning.failures.recovery import (
    POLICIES,
    CheckpointRestart,
    LivingActors,
    Policy,
    Saves,
    tune,
)
from moe.planning.failures.simulate import compare, simulate_run
from moe.planning.failures.traces import Event, SpotMarket, Trace, poisson, spot
from moe.planning.policy.interval import young_interval
from tests.examples import examples
from tests.ticking import ACCOUNTS, Ticking

DAY = 86_400.0


def fixed(devices: int, seconds: float = 1.0) -> Callable[[int], float | None]:
    return lambda there: seconds if there >= devices else None


def accounts(result: Goodput) -> dict[str, float]:
    return {name: getattr(result, f"{name}_seconds") for name in ACCOUNTS}


def drawn_trace(random: Random, devices: int) -> Trace:
    """Draw losses and joins of whole seconds that can happen, many of them close together."""
    there = set(range(devices))
    events = []
    seconds = 0
    for _ in range(random.randrange(3, 15)):
        seconds += random.randrange(10) + random.choice([0, 0, 10, 25])
        absent = sorted(set(range(devices)) - there)
        back = random.sample(absent, random.choice([0, 1, len(absent)]) if absent else 0)
        gone = random.sample(sorted(there), random.choice([0, 1, 1, 1, 2]) % (len(there) + 1))
        back = back or random.choice([gone, []])
        if gone or back:
            there = (there - set(gone)) | set(back)
            events.append(Event(float(seconds), len(gone), len(back), (*gone, *back)))
    return Trace(tuple(events), seconds + random.randrange(1, 60))


def drawn_saves(random: Random, step: int) -> Saves:
    every = random.randrange(1, 7)
    return Saves(every, random.randrange(4), random.randrange(min(9, every * step) + 1))


def drawn_policy(random: Random, step: int) -> Policy:
    elastic = random.random() < 0.6
    checkpoints = drawn_saves(random, step)
    pauses = [random.randrange(limit) for limit in (3, 9, 3, 9, 3)]
    if random.random() < 0.3:
        return CheckpointRestart(checkpoints, *pauses[:2], elastic)
    copies = drawn_saves(random, step)
    return LivingActors(copies, checkpoints, *pauses, elastic)


@settings(max_examples=examples(800))
@given(seed=st.integers(0, 2**60))
def test_skipping_ahead_equals_going_second_by_second(seed: int) -> None:
    random = Random(seed)
    devices, fastest, least = (random.randrange(1, limit) for limit in (7, 4, 4))
    more = [random.randrange(3) for _ in range(devices)]
    steps = {n: fastest + sum(more[n:]) for n in range(min(least, devices), devices + 1)}
    policy, trace = drawn_policy(random, fastest), drawn_trace(random, devices)
    slow = Ticking(policy, steps, devices).play(trace)
    fast = simulate_run(trace, policy, steps.get, devices)
    assert accounts(fast) == slow.spent
    assert (fast.steps, fast.failures, fast.restores) == (slow.step, slow.failures, slow.restores)
    assert sum(slow.spent.values()) == trace.horizon_seconds


@settings(max_examples=examples(100))
@given(
    step=st.floats(1, 30),
    seed=st.integers(0, 1000),
    mtbf=st.floats(5, 2000),
    repair=st.sampled_from([0.0, 3.3, 100.0]),
)
def test_every_second_is_in_one_account(step: float, seed: int, mtbf: float, repair: float) -> None:
    policy = drawn_policy(Random(seed), 1)
    trace = poisson(6, mtbf, 5000.0, seed, repair)
    result = simulate_run(trace, policy, lambda n: step * 6 / n if n > 2 else None, 6)
    spent = accounts(result)
    assert math.fsum(spent.values()) == pytest.approx(5000.0, abs=1e-8)
    assert min(spent.values()) >= 0
    assert result.useful_seconds == pytest.approx(result.steps * step, abs=1e-8 * result.steps)
    assert 0 <= result.effective_ratio <= 1
    assert result.relative_throughput <= 1


@given(
    every=st.integers(1, 50),
    step=st.integers(1, 40),
    stall=st.integers(0, 30),
    cycles=st.integers(1, 40),
)
def test_without_failures_only_the_stalls_cost(
    every: int, step: int, stall: int, cycles: int
) -> None:
    policy = CheckpointRestart(Saves(every, stall / 8))
    cycle = every * step / 8 + stall / 8
    result = simulate_run(Trace((), cycle * cycles), policy, fixed(1, step / 8), 1)
    assert result.steps == result.undisturbed_steps == every * cycles
    assert result.effective_ratio == pytest.approx(every * step / 8 / cycle, rel=1e-12)
    assert result.relative_throughput == 1.0
    assert result.lost_seconds == result.recovery_seconds == result.waiting_seconds == 0


def first_order(interval: float, save: float, recovery: float, mtbf: float) -> float:
    return 1 - (save / interval + (interval / 2 + recovery) / mtbf)


@pytest.mark.parametrize(("save", "restart", "mtbf"), [(2, 10, 3600), (10, 60, 86400), (1, 5, 600)])
def test_checkpoint_restart_follows_the_first_order_formula(
    save: float, restart: float, mtbf: float
) -> None:
    trace = poisson(8, mtbf, 4000 * mtbf, seed=1)
    for factor in (0.7, 1.0, 1.5):
        interval = round(factor * young_interval(save, mtbf))
        policy = CheckpointRestart(Saves(interval, save), 0.0, restart)
        ratio = simulate_run(trace, policy, fixed(8), 8).effective_ratio
        overhead = 1 - first_order(interval, save, restart, mtbf)
        # What the first order leaves out is of the square; 4,000 failures scatter by 1.6 %.
        assert 1 - ratio == pytest.approx(overhead, abs=overhead**2 + 0.04 * overhead)


def test_the_best_simulated_interval_is_near_that_of_young() -> None:
    save, mtbf = 2.0, 3600.0
    trace = poisson(8, mtbf, 1500 * mtbf, seed=7)
    best = young_interval(save, mtbf)
    assert best == 120.0
    ratios = {
        interval: simulate_run(
            trace, CheckpointRestart(Saves(interval, save), 0.0, 10.0), fixed(8), 8
        ).effective_ratio
        for interval in (30, 60, 80, 100, 120, 150, 190, 300, 500)
    }
    assert 0.75 * best <= max(ratios, key=ratios.__getitem__) <= 1.35 * best


@settings(max_examples=examples(100))
@given(seed=st.integers(0, 2**60))
def test_more_failures_never_give_more_steps(seed: int) -> None:
    """Where every failure costs alike: restarts, and losses of one device that has a copy."""
    random = Random(seed)
    every = sorted(random.randrange(600) for _ in range(random.randrange(30)))
    some = [seconds for seconds in every if random.random() < 0.5]

    def steps(policy: Policy, hits: list[int]) -> int:
        events = tuple(Event(float(seconds), 1, 1, (0, 0)) for seconds in hits)
        return simulate_run(Trace(events, 700.0), policy, fixed(4, 2.0), 4).steps

    restart = CheckpointRestart(drawn_saves(random, 2), 1.0, 6.0)
    copies = replace(drawn_saves(random, 2), hidden_seconds=0.0)
    living = LivingActors(copies, Saves(10**6, 0.0), 1.0, 1.0, 2.0, 1.0)
    for policy in (restart, living):
        assert steps(policy, every) <= steps(policy, some) <= steps(policy, [])


def test_the_bar_a_ratio_of_97_percent_when_something_fails_every_ten_minutes() -> None:
    """With the default numbers, steps of one second, over 7,000 failures."""
    trace = poisson(8, 600.0, 50 * DAY, seed=11)
    results = dict(compare(trace, fixed(8), 8))
    living = results["living actors"]
    assert living.failures == pytest.approx(50 * 144, rel=0.03)
    assert living.effective_ratio >= 0.97
    assert results["living actors, warm spare"].effective_ratio >= 0.976
    assert results["checkpoint restart"].effective_ratio < 0.90
    policy = LivingActors()
    stalls = 0.06 / 10 + 1.0 / 400
    replay = 10.6 / 2 + 0.6  # half a copy interval, and a copy not yet there
    expected = 1 - stalls - (policy.heal_seconds + replay) / 600
    assert living.effective_ratio == pytest.approx(expected, abs=1.5e-3)


@pytest.mark.parametrize("step", [0.2, 1.0, 5.0, 10.0])
def test_the_bar_holds_for_other_steps_when_tuned(step: float) -> None:
    trace = poisson(16, 600.0, 40 * DAY, seed=2)
    warm = tune(POLICIES["living actors, warm spare"], step, trace.mtbf_seconds)
    assert simulate_run(trace, warm, fixed(16, step), 16).effective_ratio >= 0.97
    restart = tune(CheckpointRestart(), step, trace.mtbf_seconds)
    assert simulate_run(trace, restart, fixed(16, step), 16).effective_ratio < 0.93


def test_tuning_helps_and_needs_failures() -> None:
    trace = poisson(8, 600.0, 20 * DAY, seed=3)
    for policy in POLICIES.values():
        tuned = tune(policy, 5.0, trace.mtbf_seconds)
        before, after = (
            simulate_run(trace, each, fixed(8, 5.0), 8).effective_ratio for each in (policy, tuned)
        )
        assert after > before
        assert tune(policy, 5.0, math.inf) == policy
    slow_copies = LivingActors(copies=Saves(1, 0.0, 7.0))  # no oftener than they can be made
    tuned = tune(slow_copies, 2.0, 600.0)
    assert isinstance(tuned, LivingActors)
    assert tuned.copies.every_steps == 4


def test_a_loss_replays_from_the_copy_and_a_double_loss_from_the_checkpoint() -> None:
    policy = LivingActors(Saves(4, 0.0), Saves(20, 0.0), 1, 1, 3, 1, 10)

    def run(*events: Event) -> Goodput:
        return simulate_run(Trace(events, 100.0), policy, fixed(4), 4)

    one = run(Event(30.5, 1, 1, (1, 1)))  # back to step 28, on again at 36.5
    assert (one.lost_seconds, one.recovery_seconds, one.restores) == (3.0, 6.0, 0)
    assert one.steps == 91
    both = run(Event(30.5, 2, 2, (1, 3, 1, 3)))  # 3 holds the copy of 1: back to step 20
    assert (both.lost_seconds, both.recovery_seconds, both.restores) == (11.0, 11.0, 1)
    assert both.steps == 78
    apart = run(Event(30.5, 2, 2, (1, 2, 1, 2)))
    assert apart.restores == 0
    fresh = replace(policy, copies=Saves(4, 0.0, 2.0))  # copies made anew 2 s after the first loss
    for device, restores in ((2, 0), (3, 1)):  # 1 has its own state again; that of 3 was with 1
        events = (Event(30.5, 1, 1, (1, 1)), Event(37.0, 1, 1, (device, device)))
        result = simulate_run(Trace(events, 100.0), fresh, fixed(4), 4)
        assert result.restores == restores
    late = run(Event(30.5, 1, 1, (1, 1)), Event(36.0, 1, 1, (3, 3)))  # before 1 is rebuilt
    assert (late.restores, late.recovery_seconds, late.failures) == (1, 16.5, 2)


def test_fewer_devices_go_on_slower_where_there_is_a_plan() -> None:
    trace = Trace((Event(10.5, 1, 0, (3,)), Event(50.0, 0, 1, (3,))), 100.0)
    policy = LivingActors(Saves(1, 0.0), Saves(1000, 0.0), 0.5, 1, 4, 1, 10)
    shrunk = simulate_run(trace, policy, {4: 1.0, 3: 2.0}.get, 4)
    # 10 steps; 2.5 s to regroup without a new process; steps of 2 s from 13 s on; the device is
    # built by 54 s and taken in at 55 s, for 2 s; steps of 1 s from 57 s on.
    assert accounts(shrunk) == {
        "useful": 10 + 21 + 43,
        "slower": 21.0,
        "lost": 0.5,
        "recovery": 4.5,
        "saving": 0.0,
        "waiting": 0.0,
    }
    waited = simulate_run(trace, policy, fixed(4), 4)
    assert waited.waiting_seconds == 39.5
    assert waited.steps == 10 + 43  # 6.5 s to rebuild once the device is there
    assert simulate_run(trace, replace(policy, elastic=False), {4: 1.0, 3: 2.0}.get, 4) == waited


def test_spot_capacity_is_best_used_by_living_actors() -> None:
    trace = spot(16, SpotMarket(), 20 * DAY, seed=1)
    chosen = {**POLICIES, "elastic restart": CheckpointRestart(elastic=True)}
    results = dict(compare(trace, lambda n: 16 / n if n >= 4 else None, 16, chosen))
    assert [name for name, _ in results.items()] == list(chosen)
    ratios = {name: result.effective_ratio for name, result in results.items()}
    assert ratios["checkpoint restart"] < ratios["elastic restart"] < ratios["living actors"]
    assert results["checkpoint restart"].waiting_seconds > 0.3 * trace.horizon_seconds
    # Copies of neighbours by number die with the burst that takes both.
    near = simulate_run(trace, LivingActors(), lambda n: 16 / n, 16, nodes=("a", "b") * 8)
    assert near.restores > results["living actors"].restores


def test_unknown_devices_are_drawn_by_the_seed() -> None:
    events = tuple(Event(60.0 * number, 2, 2) for number in range(1, 400))
    trace = Trace(events, 30_000.0)
    runs = [simulate_run(trace, LivingActors(), fixed(6), 6, seed) for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]
    # Two of six hit holder and held with a chance of 3 in 15.
    assert runs[0].restores / 399 == pytest.approx(0.2, abs=0.06)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: simulate_run(Trace((), 1.0), CheckpointRestart(), fixed(4), 3), "all 3 devices"),
        (lambda: simulate_run(Trace((), 1.0), CheckpointRestart(), fixed(0), 0), "all 0 devices"),
        (
            lambda: simulate_run(Trace((), 1.0), CheckpointRestart(), fixed(1, math.nan), 1),
            "a step on 1 devices takes nan s",
        ),
        (
            lambda: simulate_run(Trace((), 1.0), LivingActors(Saves(1, 0.0, 2.0)), fixed(1), 1),
            "takes 2.0 s behind the steps, the next one follows after 1 of 1.0 s",
        ),
        (lambda: Saves(0, 1.0), "every_steps is 0; give a finite number from 1 on"),
        (lambda: Saves(1, -1.0), "stall_seconds is -1.0"),
        (lambda: CheckpointRestart(restart_seconds=math.inf), "restart_seconds is inf"),
        (
            lambda: simulate_run(Trace((), 1.0), LivingActors(), fixed(2), 2, nodes=("a",)),
            "1 nodes for 2 devices; name one for each, or none",
        ),
    ],
)
def test_impossible_numbers_are_refused(run: Callable[[], object], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        run()


def test_a_day_of_short_steps_takes_no_time() -> None:
    trace = poisson(64, 600.0, DAY, seed=1)
    start = time.perf_counter()
    compare(trace, fixed(64, 0.1), 64)
    assert time.perf_counter() - start < 1.0
