"""Events on the time axis."""

from pathlib import Path

import pytest

from pipelines.reporting.happenings import KINDS, happenings
from pipelines.reporting.recorded import read_run
from tests import journals

BEGAN = journals.BEGAN


def test_a_healing_ends_where_it_was_written_and_its_phases_end_there(tmp_path: Path) -> None:
    found = happenings(read_run(journals.written(tmp_path, journals.eventful())))
    kinds = [each.kind for each in found]
    assert kinds == ["start", "loss", "healing", "checkpoint", "resize", "stay", "checkpoint"]
    assert {*kinds} <= {*KINDS}
    healing = found[2]
    assert healing.stop == BEGAN + 125
    assert healing.start == pytest.approx(BEGAN + 125 - sum(journals.PHASES.values()))
    assert dict(healing.phases) == journals.PHASES
    assert (healing.step, healing.told) == (12, "healed: all go on from step 12")
    checkpoint = found[3]
    assert checkpoint.stop - checkpoint.start == pytest.approx(2.5)


def test_a_wait_lasts_until_the_run_goes_on(tmp_path: Path) -> None:
    lines = [
        {"event": "lost", "time": 10.0, "done": 3, "cause": "node gone"},
        {"event": "waits", "time": 11.0, "reason": "no room"},
        {"event": "mended", "time": 50.0, "boundary": 3, "replanned": True, "seconds": {"a": 2.0}},
        {"event": "waits", "time": 60.0, "reason": "no room again"},
    ]
    found = happenings(read_run(journals.written(tmp_path, lines)))
    waits = [(each.start, each.stop) for each in found if each.kind == "wait"]
    assert waits == [(11.0, 50.0), (60.0, 60.0)]


def test_a_plan_that_only_goes_on_is_no_start(tmp_path: Path) -> None:
    lines = [
        {"event": "began", "time": 1.0, "boundary": 0, "new": True, "ranks": 4},
        {"event": "began", "time": 2.0, "boundary": 5, "new": False, "taken_over": False},
        {"event": "began", "time": 3.0, "boundary": 6, "new": False, "taken_over": True},
    ]
    found = happenings(read_run(journals.written(tmp_path, lines)))
    assert [(each.kind, each.start) for each in found] == [("start", 1.0), ("start", 3.0)]


@pytest.mark.parametrize(
    "event",
    [
        {"event": "mended", "time": 1.0, "seconds": "long", "reason": None},
        {"event": "mended", "time": 1.0, "seconds": {"seen": "x", "built": -3}},
        {"event": "resized", "time": 1.0},
        {"event": "checkpoint", "time": 1.0, "checkpoint_seconds": -4},
        {"event": "lost", "time": 1.0, "cause": {"a": ["<b>"]}},
        {"event": "lost", "time": None},
    ],
)
def test_events_of_a_wrong_shape_do_no_harm(event: dict[str, object], tmp_path: Path) -> None:
    for each in happenings(read_run(journals.written(tmp_path, [event]))):
        assert each.start <= each.stop
