"""Which faults a run takes, and what is told and left of them."""

from contextlib import closing
from pathlib import Path

import pytest

from cluster.journal import JOURNAL, read
from moe.config.fault import parse_fault
from moe.config.run import RunConfig
from moe.errors import ConfigError
from pipelines.training.faults import armed, check_faults, check_ranks
from tests import plans, runs
from tests.records import silent

KILL = parse_fault("kill:rank=0,step=3,phase=backward")
NODE = parse_fault("node:rank=1,step=9")


def run_of(directory: Path, faults: bool = True) -> RunConfig:
    """Return a run of 20 steps."""
    sections = {"checkpoint": {"path": str(directory)}, "elastic": {"faults": faults}}
    return runs.run_config(directory, **sections)


def test_a_run_whose_file_does_not_allow_faults_suffers_none(tmp_path: Path) -> None:
    check_faults(run_of(tmp_path, faults=False), (), 0)
    told = "does not allow faults; set elastic.faults = true .* or leave the option out"
    with pytest.raises(ConfigError, match=told):
        check_faults(run_of(tmp_path, faults=False), [KILL], 0)


@pytest.mark.parametrize(
    ("text", "done", "last"),
    [
        ("kill:rank=0,step=20,phase=step", 0, 19),
        ("kill:rank=0,step=3,phase=step", 4, 19),
        ("drain:rank=0,step=20", 0, 19),
        ("hang:rank=0,step=21,phase=write", 0, 20),
    ],
)
def test_a_step_that_the_run_has_not_is_refused(
    text: str, done: int, last: int, tmp_path: Path
) -> None:
    told = rf"^--fault {text}: .* here from {done} to {last} \(train.steps is 20\)"
    with pytest.raises(ConfigError, match=told):
        check_faults(run_of(tmp_path), [KILL, parse_fault(text)][1:], done)
    check_faults(run_of(tmp_path), [parse_fault("hang:rank=0,step=20,phase=write"), KILL], 3)


def test_a_phase_that_never_comes_is_refused(tmp_path: Path) -> None:
    copy = parse_fault("kill:rank=0,step=3,phase=copy")
    check_faults(run_of(tmp_path), [copy], 0)
    none = runs.run_config(tmp_path, elastic={"faults": True, "copy_every": 0})
    with pytest.raises(ConfigError, match=r"makes no copies, because elastic.copy_every is 0"):
        check_faults(none, [copy], 0)


def test_a_rank_that_the_plan_has_not_is_refused() -> None:
    plan = runs.repeated(plans.single(plans.SMOLLM2), 2)
    check_ranks([KILL, NODE, parse_fault("kill:rank=9,step=3,phase=resize")], plan)
    with pytest.raises(ConfigError, match="the plan has the ranks 0 to 1; name one of them"):
        check_ranks([NODE, parse_fault("node:rank=2,step=9")], plan)


def test_faults_are_told_recorded_when_they_happen_and_leave_nothing(tmp_path: Path) -> None:
    told: list[str] = []
    (tmp_path / ".faults-1").mkdir()  # of a command line that was killed
    with armed(run_of(tmp_path), [KILL, NODE], told.append) as plan:
        with closing(silent(tmp_path)) as record:
            record.faults(plan)
            assert plan.armed[0].take()
            record.faults(plan)
        with closing(silent(tmp_path)) as record:  # the driver's next life
            record.faults(plan)
    assert told == [f"faults to come: {KILL}; {NODE}", f"faults that did not happen: {NODE}"]
    events = read(tmp_path / JOURNAL)
    assert [event["event"] for event in events] == ["faults", "fault", "faults"]
    assert events[0]["faults"] == [str(KILL), str(NODE)]
    assert events[1]["fault"] == str(KILL)
    assert [path.name for path in tmp_path.iterdir()] == [JOURNAL]


def test_a_run_without_faults_is_told_and_records_nothing(tmp_path: Path) -> None:
    told: list[str] = []
    with (
        armed(run_of(tmp_path), (), told.append) as plan,
        closing(silent(tmp_path)) as record,
    ):
        record.faults(plan)
    assert told == read(tmp_path / JOURNAL) == []
