"""A journal read back: its curves, events and layers, and journals that are not as they should."""

from math import inf, nan
from pathlib import Path

import pytest

from moe.errors import ConfigError, DataError
from pipelines.reporting.recorded import KEPT, read_run
from tests import journals


def test_curves_events_and_layers_are_those_of_the_journal(tmp_path: Path) -> None:
    run = read_run(journals.written(tmp_path / "demo", journals.eventful()))
    assert (run.name, run.steps, run.last_step, run.tokens) == ("demo", 40, 40, 40 * 1020)
    assert [each.mean for each in run.curves["loss"].bins][:2] == [5 - 1 / 21, 5 - 2 / 22]
    assert run.happened == {
        "began": 1,
        "checkpoint": 2,
        "lost": 1,
        "mended": 1,
        "resized": 1,
        "stays": 1,
    }
    assert (run.copies, run.times) == (40, (journals.BEGAN, journals.BEGAN + 403))
    assert run.peaks == (5.1e9, 4e9)
    assert run.timeline is not None
    number, stages = run.timeline
    assert number == 31
    assert [len(events) for events in stages] == [4, 4]
    assert str(stages[1][1].action) == "1B0"


def test_layers_have_curves_of_their_own_and_shares_of_load(tmp_path: Path) -> None:
    lines = [journals.step(n, layers=2, experts=2) for n in (1, 2, 3)]
    lines[2]["layers"]["1"] = {"load": [30, 10], "drop_rate": 0.5}
    experts = read_run(journals.written(tmp_path, lines)).experts
    assert experts.by_layer["drop_rate"][1].last == 0.5
    least, mean, most = experts.over_layers["drop_rate"]
    assert [least.last, most.last] == [pytest.approx(0.1 / 3), 0.5]
    assert mean.last == pytest.approx((0.5 + 0.1 / 3) / 2)
    assert experts.by_layer["overload"][1].last == 1.5
    start, stop, loads = experts.loads.parts[-1]
    assert (start, stop) == (3, 3)
    assert loads[1] == [0.75, 0.25]
    assert experts.closest[0] == (0, 1, 0.995)


def test_a_line_that_is_not_whole_yet_is_left(tmp_path: Path) -> None:
    lines = [journals.step(n) for n in (1, 2)]
    assert read_run(journals.written(tmp_path, lines, tail='{"step": 3, "lo')).steps == 2


def test_an_empty_journal_is_a_run_without_steps(tmp_path: Path) -> None:
    run = read_run(journals.written(tmp_path, []))
    assert (run.steps, run.times, run.last("loss")) == (0, None, None)


def test_what_is_no_number_is_counted_and_not_drawn(tmp_path: Path) -> None:
    losses = [3.0, nan, inf, "4", None, 10**400, 2.0]
    lines = [journals.step(n) | {"loss": loss} for n, loss in enumerate(losses, start=1)]
    curve = read_run(journals.written(tmp_path, lines)).curves["loss"]
    assert (curve.lost, curve.missing) == (5, [2, 3, 4, 5, 6])
    assert curve.span == (2.0, 3.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"layers": [1, 2]},
        {"layers": {"x": {}, "0": 3, "1": {"load": ["a"], "drop_rate": "high"}}},
        {"layers": {"0": {"load": [0, 0]}}},
        {"peak_memory_bytes": "much", "compute_seconds": [None]},
        {"timeline": [[["F", 0, 0, 2.0, 1.0]]]},
        {"timeline": [["F", 0]]},
        {"timeline": 7},
        {"timeline": [[], []]},
        {"time": "now"},
        {"step": "first"},
    ],
)
def test_values_of_a_wrong_shape_are_left_out(wrong: dict[str, object], tmp_path: Path) -> None:
    lines = [journals.step(1), journals.step(2, peak_memory_bytes=None) | wrong]
    run = read_run(journals.written(tmp_path, lines))
    assert run.timeline is None
    assert run.peaks == (5.1e9, 4e9)


@pytest.mark.parametrize("event", [{"event": ["lost"]}, {"event": {}}, {"event": None}])
def test_events_of_no_known_kind_are_left_out(event: dict[str, object], tmp_path: Path) -> None:
    assert read_run(journals.written(tmp_path, [event])).events == []


def test_of_very_many_events_the_newest_are_kept(tmp_path: Path) -> None:
    lines = [{"event": "checkpoint", "time": 1.0 + n, "step": n} for n in range(KEPT + 50)]
    lines.insert(3, {"event": "lost", "time": 4.0, "done": 2, "cause": "killed"})
    run = read_run(journals.written(tmp_path, lines))
    assert run.happened["checkpoint"] == KEPT + 50
    assert len(run.events) == KEPT + 1
    assert run.events[0]["event"] == "lost"
    assert run.events[-1]["step"] == KEPT + 49


def test_what_is_no_run_is_refused_with_what_to_give(tmp_path: Path) -> None:
    journals.written(tmp_path / "one", [])
    with pytest.raises(ConfigError, match=r"no directory of a run; give one of one in it"):
        read_run(tmp_path)
    with pytest.raises(ConfigError, match="does not exist"):
        read_run(tmp_path / "none")
    with pytest.raises(DataError, match="line 1 is not JSON"):
        read_run(journals.written(tmp_path / "torn", [], tail="no json\n"))
