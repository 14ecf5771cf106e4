"""Which process is armed with which faults, and that a fault is spent once for all processes."""

from pathlib import Path

from actors.faults.armed import Armed, FaultPlan
from moe.config.fault import Fault, parse_fault


def fault(text: str) -> Fault:
    return parse_fault(text)


def plan_of(directory: Path, *texts: str) -> FaultPlan:
    plan = FaultPlan(tuple(map(parse_fault, texts)), directory / "marks")
    plan.open()
    return plan


def texts(armed: tuple[Armed, ...]) -> list[str]:
    return [str(each.fault) for each in armed]


def test_a_process_gets_the_faults_of_its_rank_alone(tmp_path: Path) -> None:
    own = ["raise:rank=1,step=0,phase=write", "kill:rank=1,step=3,phase=forward"]
    plan = plan_of(tmp_path, own[0], "kill:rank=2,step=3,phase=step", own[1], "node:rank=1,step=1")
    assert texts(plan.of_rank(1, 0)) == own
    assert plan.of_rank(0, 0) == ()


def test_a_start_fault_is_for_the_first_process_that_starts_late_enough(tmp_path: Path) -> None:
    start = "kill:rank=1,step=4,phase=start"
    plan = plan_of(tmp_path, start)
    assert plan.of_rank(1, 3) == ()
    assert texts(plan.of_rank(1, 6)) == [start]


def test_nodes_are_struck_before_a_step_and_never_again(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "node:rank=1,step=2", "drain:rank=0,step=5,seconds=9")
    assert plan.due(1) == ()
    (first,) = plan.due(2)
    assert first.take()
    assert not first.take()
    assert plan.due(4) == ()
    assert texts(plan.due(7)) == ["drain:rank=0,step=5,seconds=9"]
    assert plan.spent() == (first,)


def test_the_same_fault_given_twice_is_two(tmp_path: Path) -> None:
    text = "kill:rank=0,step=2,phase=step"
    first, second = plan_of(tmp_path, text, text).of_rank(0, 0)
    assert first.take()
    assert not second.spent
    assert second.take()


def test_the_marks_are_gone_at_the_end(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "node:rank=1,step=2")
    assert plan.armed[0].take()
    plan.close()
    assert list(tmp_path.iterdir()) == []
