"""Every kind of fault in every phase of a rank's work: where it should be, and once."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import pytest

from actors.calls import Answer
from actors.commands import BuildCommand
from actors.crew.arming import arm
from actors.crew.over_pipes import PipeCrew
from actors.crew.process import RankProcess
from actors.epochs.membership import Membership
from actors.faults.armed import FaultPlan
from actors.faults.points import Points
from actors.rank.rank import Rank
from actors.rank.states import Empty
from actors.state.sources import ModelSource
from moe.checkpoint.reader import Checkpoint
from moe.config.fault import STEP_PHASES, Fault, Phase, ProcessKind
from moe.config.run import RunConfig
from moe.errors import RankDied, RankLost
from tests import crews, runs, tiny
from tests.alone import ALONE, alone, join, rank_of_this_process
from tests.ranks import SECONDS

SEAT = ALONE.seat(0)
COMMANDS: dict[Phase, str] = {
    "start": "build",
    **dict.fromkeys(STEP_PHASES, "train_step"),
    "snapshot": "snapshot",
    "write": "write",
}
"""The phases of every rank, in the order of its work, and the command in which each lies."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    model = tiny.saved(tiny.mixtral(), tmp_path_factory.mktemp("model"))
    return runs.run_config(model)


@pytest.fixture
def armed(run: RunConfig) -> Iterator[Rank]:
    """A rank of this process, which forgets at the end what it was armed with."""
    with alone(run.model.path, run) as rank:
        try:
            yield rank
        finally:
            rank.arm(())


def planned(directory: Path, *faults: Fault) -> FaultPlan:
    plan = FaultPlan(faults, directory / "marks")
    plan.open()
    return plan


@pytest.mark.parametrize("kind", ["kill", "hang"])
def test_every_life_suffers_the_next_fault_and_the_last_life_none(
    kind: ProcessKind, run: RunConfig, tmp_path: Path
) -> None:
    """Each life is armed with all faults, as a driver arms it that knows nothing of the others."""
    faults = planned(tmp_path, *(Fault(kind, 0, 0, phase) for phase in COMMANDS))
    ends = {"kill": _died, "hang": _stopped}
    for number, command in enumerate(COMMANDS.values()):
        process = RankProcess(0)
        try:
            assert _lived(process, faults, run, tmp_path, ends[kind]) == command
        finally:
            process.kill()
        assert [each.fault for each in faults.spent()] == list(faults.faults[: number + 1])
    process = RankProcess(0)
    try:
        assert _lived(process, faults, run, tmp_path, ends[kind]) is None
    finally:
        process.kill()


@pytest.mark.parametrize("phase", STEP_PHASES)
def test_an_error_comes_in_its_phase_of_its_step_and_once(
    phase: Phase, armed: Rank, run: RunConfig, tmp_path: Path
) -> None:
    faults = planned(tmp_path, Fault("raise", 0, 1, phase))
    armed.arm(faults.of_rank(0, 0))
    config = Checkpoint.open(run.model.path).config
    armed.train_step(runs.batch(config, run, 0))
    with pytest.raises(RankLost, match=f"during step 1: fault raise:rank=0,step=1,phase={phase}"):
        armed.train_step(runs.batch(config, run, 1))
    assert not armed.status().joined
    assert armed.status().torn == (phase == "update")
    assert _gradients(armed) == (phase != "forward")
    join(armed, 2)
    armed.arm(faults.of_rank(0, 1))
    if phase != "update":
        assert armed.train_step(runs.batch(config, run, 1)).step == 2


def test_an_error_at_the_start_leaves_no_share(run: RunConfig, tmp_path: Path) -> None:
    rank, command = rank_of_this_process(), _build(run)
    rank.arm(planned(tmp_path, Fault("raise", 0, 5, "start")).of_rank(0, 7))
    with pytest.raises(RuntimeError, match=r"^fault raise:rank=0,step=5,phase=start$"):
        rank.build(*command)
    assert not rank.status().built
    rank.build(*command)
    assert rank.status().built


def test_errors_in_a_snapshot_and_in_a_write_come_at_the_first_boundary_from_their_step(
    armed: Rank, run: RunConfig, tmp_path: Path
) -> None:
    faults = planned(tmp_path, Fault("raise", 0, 2, "snapshot"), Fault("raise", 0, 1, "write"))
    armed.arm(faults.of_rank(0, 0))
    config = Checkpoint.open(run.model.path).config
    armed.train_step(runs.batch(config, run, 0))
    armed.snapshot(1)
    with pytest.raises(RankLost, match=r"while it wrote .*: fault raise:rank=0,step=1,phase=write"):
        armed.write(tmp_path, 1)
    assert list(tmp_path.glob("model-*.safetensors"))
    assert not (tmp_path / "optimizer").exists()
    armed.train_step(runs.batch(config, run, 1))
    armed.train_step(runs.batch(config, run, 2))
    with pytest.raises(RuntimeError, match=r"^fault raise:rank=0,step=2,phase=snapshot$"):
        armed.snapshot(3)
    assert armed.status().saving is None
    armed.snapshot(3)
    assert armed.write(tmp_path, 3).tensors


def test_what_is_armed_anew_takes_the_place_of_what_was(
    armed: Rank, run: RunConfig, tmp_path: Path
) -> None:
    armed.arm(planned(tmp_path, Fault("kill", 0, 0, "step")).of_rank(0, 0))
    armed.arm(())
    config = Checkpoint.open(run.model.path).config
    assert armed.train_step(runs.batch(config, run, 0)).step == 1


def test_nothing_armed_asks_a_few_times_a_step_and_in_no_layer(armed: Rank, run: RunConfig) -> None:
    config, seen = Checkpoint.open(run.model.path).config, Counter[Any]()

    def count(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename == Points.reach.__code__.co_filename:
            seen[frame.f_code.co_name] += 1

    sys.setprofile(count)
    try:
        armed.train_step(runs.batch(config, run, 0))
    finally:
        sys.setprofile(None)
    once_each = len(("step", "reduction", "update"))
    assert seen == {"reach": once_each + 2 * run.train.micro_batches}


def _lived(
    process: RankProcess,
    faults: FaultPlan,
    run: RunConfig,
    directory: Path,
    ended: Callable[[RankProcess, Answer], bool],
) -> str | None:
    """Take a process through all its work; return the command in which it ended, None if none."""
    arm(PipeCrew(ALONE, [process]), faults, 0, SECONDS)
    config = Checkpoint.open(run.model.path).config
    work: list[tuple[str, Callable[[], tuple[Any, ...]]]] = [
        ("build", lambda: _build(run)),
        ("join", lambda: (_membership(process),)),
        ("train_step", lambda: (runs.batch(config, run, 0),)),
        ("snapshot", lambda: (1,)),
        ("write", lambda: (directory, 1)),
    ]
    for command, arguments in work:
        answer = process.tell(command, *arguments())
        if ended(process, answer):
            return command
        answer.result(SECONDS)
    return None


def _died(process: RankProcess, answer: Answer) -> bool:
    return isinstance(answer.exception(SECONDS), RankDied)


def _stopped(process: RankProcess, answer: Answer) -> bool:
    """Wait until a command is done, or its process has stopped in it."""
    seen = psutil.Process(process.pid)
    crews.soon(lambda: answer.done() or seen.status() == psutil.STATUS_STOPPED)
    return not answer.done()


def _build(run: RunConfig) -> tuple[BuildCommand, ModelSource]:
    config = Checkpoint.open(run.model.path).config
    command = BuildCommand(runs.plan(config, (config.layers,)), SEAT, runs.LENGTH, run)
    return command, ModelSource(run.model.path)


def _membership(process: RankProcess) -> Membership:
    store = process.tell("open_store", SECONDS).result(SECONDS)
    return Membership("test", 1, SEAT, ALONE, (0,), *store, SECONDS)


def _gradients(rank: Rank) -> bool:
    """Tell whether any gradient of a rank is not 0: those of the step before, or of this one."""
    state = rank._state
    assert not isinstance(state, Empty)
    return any(
        bool(parameter.grad.any())
        for parameter in state.share.decoder.parameters()
        if parameter.grad is not None
    )
