"""How long a move is expected to take, before and after one was measured."""

from actors.engine.copying import Copied
from actors.engine.pace import BYTES_PER_SECOND, FIXED_SECONDS, Pace
from actors.engine.resizing import Resized
from tests import runs
from tests.routed import routed

COPIED = Copied(step=4, stall_seconds=0.1, seconds=2.0, bytes=4_000_000, every=1)


def resized(size: int, **seconds: float) -> Resized:
    return Resized(3, runs.plan(routed(2), (2,)), size, 2, 1, 1, "a node goes", seconds)


def test_copies_tell_the_rate_until_a_change_was_measured() -> None:
    pace = Pace()
    assert pace.seconds(0, None) == FIXED_SECONDS
    assert pace.seconds(int(BYTES_PER_SECOND), None) == FIXED_SECONDS + 1
    assert pace.seconds(8_000_000, COPIED) == FIXED_SECONDS + 4
    pace.note(resized(1_000_000, process=1.0, moved=0.5, joined=0.25, copied=1.5))
    assert pace.seconds(8_000_000, COPIED) == 1.25 + 16


def test_a_change_that_moved_nothing_measures_no_rate() -> None:
    pace = Pace()
    pace.note(resized(0, process=1.0, moved=0.5, joined=0.25, copied=1.5))
    assert pace.seconds(8_000_000, COPIED) == 1.25 + 4
