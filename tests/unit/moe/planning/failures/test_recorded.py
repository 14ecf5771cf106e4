"""What is predicted for recorded events: by hand, and against a trace of the same events."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe.errors import PlanError
from moe.planning.failures.recorded import Happening, Measured, predicted_goodput
from moe.planning.failures.recovery import LivingActors, Saves
from moe.planning.failures.simulate import simulate_run
from moe.planning.failures.traces import Event, Trace

MEASURED = Measured(
    step_seconds=1.0,
    heal_seconds=3.0,
    restore_seconds=10.0,
    copies=Saves(4, 0.0),
    checkpoints=Saves(20, 0.0),
    nodes=("a", "a", "b", "b"),
)


def test_a_kill_a_hang_a_resize_and_a_loss_with_its_copy_by_hand() -> None:
    undisturbed = predicted_goodput([], 100.0, MEASURED)
    assert (undisturbed.steps, undisturbed.effective_ratio) == (100, 1.0)
    killed = predicted_goodput([Happening(30.5, (1,))], 100.0, MEASURED)
    # Back from step 30 to 28, on again at 33.5; the horizon cuts a step after half of it.
    assert (killed.steps, killed.recovery_seconds, killed.lost_seconds) == (94, 3.0, 3.0)
    hung = predicted_goodput([Happening(30.5, (1,), idle_seconds=5.0)], 100.0, MEASURED)
    assert (hung.steps, hung.recovery_seconds, hung.lost_seconds) == (89, 8.0, 3.0)
    resized = predicted_goodput([Happening(30.0, idle_seconds=5.0)], 100.0, MEASURED)
    assert (resized.steps, resized.recovery_seconds, resized.failures) == (95, 5.0, 0)
    both = predicted_goodput([Happening(30.5, (0, 2))], 100.0, MEASURED)
    assert (both.restores, both.recovery_seconds, both.lost_seconds) == (1, 10.0, 11.0)
    apart = predicted_goodput([Happening(30.5, (0, 1))], 100.0, MEASURED)
    assert apart.restores == 0
    for found in (undisturbed, killed, hung, resized, both):
        assert found.undisturbed_steps == 100
        used = found.useful_seconds + found.lost_seconds + found.recovery_seconds
        assert used == pytest.approx(found.horizon_seconds)


def test_happenings_within_one_another_stand_still_once() -> None:
    spans = [Happening(10.0, idle_seconds=6.0), Happening(12.0, idle_seconds=2.0)]
    found = predicted_goodput(
        [*reversed(spans), Happening(95.0, idle_seconds=50.0)], 100.0, MEASURED
    )
    assert found.recovery_seconds == 11.0
    assert found.steps == 89


@given(st.lists(st.tuples(st.integers(0, 199), st.integers(0, 3)), max_size=8))
def test_without_idle_time_it_is_the_trace_of_the_same_losses(
    hits: list[tuple[int, int]],
) -> None:
    happened = [Happening(float(seconds), (rank,)) for seconds, rank in hits]
    events = tuple(Event(float(seconds), 1, 1, (rank, rank)) for seconds, rank in sorted(hits))
    policy = LivingActors(MEASURED.copies, MEASURED.checkpoints, 0.0, 1.0, 1.5, 0.5, 10.0)
    plain = simulate_run(Trace(events, 200.0), policy, lambda _: 1.0, 4, nodes=MEASURED.nodes)
    found = predicted_goodput(happened, 200.0, MEASURED)
    assert found.failures == plain.failures
    assert (found.steps, found.restores) == (plain.steps, plain.restores)
    assert found.recovery_seconds == pytest.approx(plain.recovery_seconds)


def test_copies_that_take_longer_than_their_steps_follow_one_another() -> None:
    slow = replace(MEASURED, copies=Saves(1, 0.0, hidden_seconds=2.5))
    every_third = replace(MEASURED, copies=Saves(3, 0.0, hidden_seconds=2.5))
    happened = [Happening(50.5, (1,))]
    assert predicted_goodput(happened, 100.0, slow) == predicted_goodput(
        happened, 100.0, every_third
    )


@pytest.mark.parametrize(
    ("happened", "message"),
    [
        (lambda: [Happening(-1.0)], r"a happening at -1\.0 s"),
        (lambda: [Happening(1.0, (9,))], "loses device 9 at 1.0 s but it is not there"),
        (lambda: [Happening(0.0, idle_seconds=200.0)], "the trace ends at 0.0 s"),
        (lambda: [Happening(101.0, (1,))], "after the end of the trace"),
    ],
)
def test_what_cannot_have_happened_is_refused(happened: object, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        predicted_goodput(happened(), 100.0, MEASURED)  # type: ignore[operator]
