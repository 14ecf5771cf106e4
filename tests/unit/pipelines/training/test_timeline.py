"""The timeline of a loss in the journal: whole, in order, and of the time that it took."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.commands import StepReport
from actors.engine.copying import Copied
from cluster.journal import JOURNAL, read
from pipelines.training.health import Health
from pipelines.training.mended import Lost, Mended, Stays, Waiting
from pipelines.training.recording import RunRecord
from pipelines.training.timeline import Began, Goodput, Scene, to_do_again
from tests import runs
from tests.plans import SMOLLM2
from tests.records import silent

SCENE = Scene(1, {"a": [0], "b": [1]}, 2)
PLAN = runs.plan(SMOLLM2, (15, 15))
BEGAN = Began(0, 1, 2, new=True)
HEALED = Mended(2, 4, (1,), False, "it died", "copies", {"seen": 0.1, "joined": 0.3})


def report(step: int, seconds: float = 0.5) -> StepReport:
    return StepReport(step, 2.5, 1.5, 1e-3, 80, seconds, {}, ())


@pytest.fixture
def record(tmp_path: Path) -> Iterator[RunRecord]:
    with closing(silent(tmp_path)) as made:
        yield made


def events(folder: Path) -> list[dict[str, Any]]:
    return [each for each in read(folder / JOURNAL) if "event" in each]


def test_a_loss_is_told_from_its_cause_to_the_last_step_that_is_done_again(
    record: RunRecord, tmp_path: Path
) -> None:
    record.began(BEGAN, SCENE, PLAN)
    for step in (1, 2):
        record.step(report(step))
    record.copied(Copied(2, 0.1, 0.2, 1000, 2))
    record.step(report(3))
    record.loss(Lost(3, "it died"), SCENE)
    record.loss(HEALED, replace(SCENE, epoch=2, ranks_by_node={"a": [0, 1]}))
    for step in (3, 4, 5):
        record.step(report(step))
    told = events(tmp_path)
    assert [each["event"] for each in told] == ["began", "copies", "lost", "mended", "replayed"]
    assert [each["time"] for each in told] == sorted(each["time"] for each in told)
    began, _, lost, mended, replayed = told
    assert (began["ranks_by_node"], began["spares"]) == ({"a": [0], "b": [1]}, 2)
    assert (lost["done"], lost["copy_age"], lost["epoch"]) == (3, 1, 1)
    assert (mended["boundary"], mended["epoch"], mended["replaced"]) == (2, 2, [1])
    assert [*mended["seconds"]] == ["seen", "joined"]
    assert replayed["boundary"] == 4
    steps = [each for each in read(tmp_path / JOURNAL) if "event" not in each]
    assert [(each["step"], each["epoch"]) for each in steps] == [
        (1, 1),
        (2, 1),
        (3, 2),
        (4, 2),
        (5, 2),
    ]
    assert [each["time"] for each in steps] == sorted(each["time"] for each in steps)


def test_a_driver_that_replaces_another_knows_what_is_still_to_be_done_again(
    record: RunRecord, tmp_path: Path
) -> None:
    record.began(BEGAN, SCENE, PLAN)
    record.step(report(1))
    record.loss(HEALED, SCENE)
    with closing(silent(tmp_path)) as second:
        second.began(replace(BEGAN, boundary=2, new=False), SCENE, PLAN)
        for step in (3, 4):
            second.step(report(step))
    assert [each["event"] for each in events(tmp_path)][-1] == "replayed"
    assert to_do_again(read(tmp_path / JOURNAL)) is None


@pytest.mark.parametrize(
    ("again", "kept"), [(None, 3.0), ("driver", 3.0), ("command line", 0.0), ("heal", 2.0)]
)
def test_goodput_counts_steps_that_are_kept_over_the_time_since_training_began(
    record: RunRecord, tmp_path: Path, again: str | None, kept: float
) -> None:
    record.began(BEGAN, SCENE, PLAN)
    for step in (1, 2, 3):
        record.step(report(step, seconds=1.0))
    if again == "heal":
        record.loss(HEALED, SCENE)
    elif again is not None:
        record.began(replace(BEGAN, new=again == "command line"), SCENE, PLAN)
    goodput = Goodput.of(read(tmp_path / JOURNAL))
    first = [each["time"] for each in events(tmp_path) if each.get("new")][-1]
    assert goodput.at(first + 10.0) == pytest.approx(kept / 10.0)
    assert goodput.at(first) is None
    assert Goodput.of([]).at(5.0) is None


def test_every_step_has_its_goodput(record: RunRecord, tmp_path: Path) -> None:
    record.began(BEGAN, SCENE, PLAN)
    record.step(report(1, seconds=1e-9))
    (step,) = (each for each in read(tmp_path / JOURNAL) if "event" not in each)
    began = events(tmp_path)[0]["time"]
    assert step["goodput"] == pytest.approx(1e-9 / (step["time"] - began))


def test_a_run_that_can_only_wait_says_why(record: RunRecord, tmp_path: Path) -> None:
    record.loss(Waiting("no room"), SCENE)
    (told,) = events(tmp_path)
    assert (told["event"], told["reason"], told["epoch"]) == ("waits", "no room", 1)


def test_how_a_run_stands_is_known_from_its_record(record: RunRecord) -> None:
    assert record.health(0, 0) == Health(0, None, None, 0)
    record.began(BEGAN, SCENE, PLAN)
    record.copied(Copied(2, 0.1, 0.2, 1000, 2))
    record.step(report(3, seconds=1e-9))
    health = record.health(3, 1)
    assert (health.step, health.copy_age, health.spares) == (3, 1, 1)
    assert health.goodput is not None


def test_ranks_of_a_node_that_goes_say_why_they_stay(record: RunRecord, tmp_path: Path) -> None:
    told = Stays(4, "too soon to move")
    record.stays(told, SCENE)
    (event,) = events(tmp_path)
    assert (event["event"], event["boundary"], event["reason"]) == ("stays", 4, "too soon to move")
    assert told.line == "no change of plan after step 4: too soon to move"
