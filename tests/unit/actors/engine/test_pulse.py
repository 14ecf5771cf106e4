"""Ranks that do not answer, and a driver that has not looked whether they have."""

import time
from collections.abc import Mapping
from typing import Any

from actors.calls import Answer
from actors.engine.pulse import Pulse
from moe.planning.plan.seats import Seat, Seats

HUNG, ALIVE = Seats(1, 2, 1)
SECONDS = 0.4
PAUSE, LONG = 1.2 * SECONDS, 2 * SECONDS


class Two:
    """Two ranks, of which one never answers."""

    seats = Seats(1, 2, 1)

    def tell(self, seat: Seat, method: str, *arguments: Any) -> Answer:
        answer = Answer()
        if seat == ALIVE:
            answer.set_result(None)
        return answer

    def lost(self) -> Mapping[Seat, str]:
        return {}

    def kill(self, seat: Seat) -> None:
        raise AssertionError("nobody asked for that")


def beaten(pulse: Pulse, seconds: float) -> None:
    """Look as often as a driver does that waits for a command."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pulse.hung()
        pulse.beat()
        time.sleep(pulse.every / 4)


def test_a_rank_that_does_not_answer_hangs_and_is_known_from_then_on() -> None:
    pulse = Pulse(Two(), SECONDS)
    beaten(pulse, LONG)
    assert pulse.hung() == [HUNG]
    time.sleep(PAUSE)
    assert pulse.hung() == [HUNG]


def test_a_driver_that_was_stopped_itself_takes_nobody_for_hung() -> None:
    pulse = Pulse(Two(), SECONDS)
    pulse.beat()
    time.sleep(PAUSE)
    assert pulse.hung() == []
    pulse.beat()
    assert pulse.silent()[HUNG] < SECONDS
    beaten(pulse, LONG)
    assert pulse.hung() == [HUNG]
