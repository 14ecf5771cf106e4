"""Ranks that are killed come back from the copies of their peers, and the run goes on as it was."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from actors.commands import BuildCommand, CopyReport, RankReport, RankStatus, Recovery
from actors.crew.gather import gather
from actors.deadlines import Deadlines
from actors.engine.meeting import Meeting
from actors.state.sources import Blank, ModelSource
from moe.checkpoint.reader import Checkpoint
from moe.config.model import ModelConfig
from moe.config.run import RunConfig
from moe.config.tensors import held_by
from moe.errors import RankLost
from moe.planning.counts.copies import copy_bytes
from moe.planning.counts.work import Parameters
from moe.planning.counts.workload import Workload
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat
from moe.surgery.initialise import initialise
from tests import runs
from tests.alone import alone, join
from tests.ranks import SECONDS, Held, Ranks, Team
from tests.routed import routed

BIAS = {"loss": "skywork", "coefficient": {"type": "bias", "rate": 0.25}}
DEEPSEEK = {"score": "sigmoid", "balance_bias": True, "experts": 6, "shared_size": 20}


@dataclass
class Run:
    """A run whose ranks keep copies in a ring, and whose dead ranks are replaced."""

    ranks: Ranks
    model: Path
    team: Team
    meeting: Meeting

    @classmethod
    def begun(cls, ranks: Ranks, model: Path, plan: Plan, run: RunConfig) -> "Run":
        team = ranks.started(plan, model, run, runs.LENGTH)
        meeting = Meeting(run.name, team.plan, team.crew, Deadlines(group=SECONDS))
        meeting.epoch = 1
        return cls(ranks, model, team, meeting)

    @property
    def holders(self) -> dict[Seat, Seat]:
        seats = self.team.plan.seats
        return {seat: seats.seat((seats.rank(seat) + 1) % len(seats)) for seat in seats}

    def step(self, step: int) -> float:
        """Run a step and return its loss."""
        assert self.team.run is not None
        config = Checkpoint.open(self.model).config
        return loss(self.team.step(runs.batch(config, self.team.run, step)))

    def copy(self, step: int) -> list[CopyReport]:
        """Take and exchange copies: both commands at once."""
        tell, seats = self.team.crew.tell, self.team.crew.seats
        taken = {seat: tell(seat, "copy", step) for seat in seats}
        exchanged = {seat: tell(seat, "exchange_copies", step, self.holders) for seat in seats}
        gather(self.team.crew, taken, "copying", SECONDS)
        return gather(self.team.crew, exchanged, "exchanging", SECONDS)

    def kill(self, *lost: int) -> None:
        for rank in lost:
            process = self.ranks.process(rank)
            process.kill()
            while process.end is None:
                time.sleep(0.001)

    def heal(self, step: int, *lost: int) -> None:
        """Replace what was lost, have all meet under the next epoch, and go back to a step."""
        wait_until_dead(self.ranks, lost)
        self.meeting.abort()
        plan, run = self.team.plan, self.team.run
        crew = self.ranks.crew(plan.seats)
        seats, source = [plan.seats.seat(rank) for rank in lost], Blank.of(ModelSource(self.model))
        built = {
            seat: crew.tell(seat, "build", BuildCommand(plan, seat, runs.LENGTH, run), source)
            for seat in seats
        }
        gather(crew, built, "building", SECONDS)
        epoch = self.meeting.epoch
        self.team = Team(crew, plan, run)
        self.meeting = Meeting("test", plan, crew, Deadlines(group=SECONDS))
        self.meeting.epoch = epoch
        self.meeting.begin()
        self.team.all("recover", Recovery(step, {seat: self.holders[seat] for seat in seats}))

    def statuses(self) -> list[RankStatus]:
        return self.team.all("status")


def wait_until_dead(ranks: Ranks, lost: Sequence[int]) -> None:
    until = time.monotonic() + SECONDS
    while any(ranks.process(rank).end is None for rank in lost):
        assert time.monotonic() < until
        time.sleep(0.001)


def loss(reports: Sequence[RankReport]) -> float:
    return next(report.loss for report in reports if report.loss is not None)


def check_same(ones: Sequence[Held], others: Sequence[Held]) -> None:
    """Compare what ranks hold to the bit: weights, moments, masters, balance."""
    for one, other in zip(ones, others, strict=True):
        assert one.balance == other.balance
        for (part, weight), (_, expected) in zip(one.weights, other.weights, strict=True):
            assert torch.equal(weight, expected), part.name
        for (part, _, own), (_, _, wanted) in zip(one.owned, other.owned, strict=True):
            kept = own.keys() - {"gradient"}
            assert all(torch.equal(own[name], wanted[name]) for name in kept), part.name


def check_counted(plan: Plan, config: ModelConfig, sizes: Sequence[int]) -> None:
    """Compare bytes of copies with what the planner counts, which leaves out padding."""
    for seat, size in zip(plan.seats, sizes, strict=True):
        counted = Parameters.of(held_by(config, plan.share(seat)))
        least = copy_bytes(counted, Workload(1, 1, 1), plan.replicas)
        assert least <= size < 1.02 * least


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("copies") / "model"
    initialise(routed(3, gate_norm=1.0), path, seed=0)
    return path


@pytest.fixture(scope="module")
def deepseek(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("copies") / "deepseek"
    initialise(routed(2, **DEEPSEEK), path, seed=0)
    return path


def check_healed(run: Run, death: str, lost: tuple[int, ...], expected: list[float]) -> list[float]:
    """Have ranks die in the step after a copy, and run to the end of the expected losses."""
    found = [run.step(0), run.step(1)]
    run.copy(2)
    for rank in lost:
        seat = run.team.plan.seats.seat(rank)
        run.team.crew.tell(seat, death).result(SECONDS)
    with pytest.raises(RankLost):
        run.step(2)
    wait_until_dead(run.ranks, lost)
    run.heal(2, *lost)
    assert {(each.step, each.torn, each.report) for each in run.statuses()} == {(2, False, None)}
    return found + [run.step(step) for step in range(2, len(expected))]


def undisturbed(run: Run, steps: int) -> tuple[list[float], list[Held]]:
    return [run.step(step) for step in range(steps)], run.team.held()


def test_two_stages_and_a_rank_killed_in_a_layer(ranks: Ranks, model: Path) -> None:
    plan, run = runs.plan(Checkpoint.open(model).config, (2, 1)), runs.run_config(model)
    expected, held = undisturbed(Run.begun(ranks, model, plan, run), 4)
    disturbed = Run.begun(ranks, model, plan, run)
    assert check_healed(disturbed, "die_in_forward", (1,), expected) == expected
    check_same(disturbed.team.held(), held)


def test_bf16_replicas_and_survivors_whose_weights_had_moved(ranks: Ranks, model: Path) -> None:
    plan = runs.repeated(runs.plan(Checkpoint.open(model).config, (3,)), 2)
    run = runs.run_config(model, train={"precision": "bf16"})
    expected, held = undisturbed(Run.begun(ranks, model, plan, run), 4)
    disturbed = Run.begun(ranks, model, plan, run)
    assert check_healed(disturbed, "die_in_update", (0,), expected) == expected
    check_same(disturbed.team.held(), held)


def test_two_of_eight_ranks_with_a_bias_that_training_does_not_update(
    ranks: Ranks, deepseek: Path
) -> None:
    config = Checkpoint.open(deepseek).config
    plan = runs.repeated(runs.plan(config, (1, 1), (2, 1), (2, 4)), 2)
    run = runs.run_config(deepseek, balance=BIAS)
    expected, held = undisturbed(Run.begun(ranks, deepseek, plan, run), 4)
    disturbed = Run.begun(ranks, deepseek, plan, run)
    assert check_healed(disturbed, "die_in_update", (1, 6), expected) == expected
    check_same(disturbed.team.held(), held)


def test_a_boundary_stays_whole_while_the_next_is_under_way(ranks: Ranks, model: Path) -> None:
    """A rank is lost before it exchanges its copies; all go back to the boundary before."""
    plan, run = runs.plan(Checkpoint.open(model).config, (2, 1)), runs.run_config(model)
    disturbed = Run.begun(ranks, model, plan, run)
    seats, reports = plan.seats, disturbed.copy(0)
    check_counted(plan, Checkpoint.open(model).config, [report.sent for report in reports])
    assert [report.received for report in reports] == [report.sent for report in reports[::-1]]
    losses = [disturbed.step(0)]
    disturbed.copy(1)
    held = disturbed.team.held()
    losses.append(disturbed.step(1))
    disturbed.team.all("copy", 2)
    survivor = disturbed.team.crew.tell(seats.seat(0), "exchange_copies", 2, disturbed.holders)
    disturbed.kill(1)
    with pytest.raises(RankLost, match="exchange of copies of step 2"):
        survivor.result(SECONDS)
    status = disturbed.team.crew.tell(seats.seat(0), "status").result(SECONDS)
    assert status.copies == {1, 2}
    assert 1 in status.holds[seats.seat(1)]
    disturbed.heal(1, 1)
    check_same(disturbed.team.held(), held)
    assert [each.copies for each in disturbed.statuses()] == [{1}, {1}]
    again = disturbed.copy(1)
    assert [report.sent > 0 for report in again] == [True, False]
    assert disturbed.step(1) == losses[1]


def test_a_rank_goes_back_to_its_own_copy(model: Path) -> None:
    config, run = Checkpoint.open(model).config, runs.run_config(model)
    with alone(model, run) as rank:
        losses = [rank.train_step(runs.batch(config, run, step)).loss for step in range(2)]
        rank.copy(2)
        rank.exchange_copies(2, {})
        losses += [rank.train_step(runs.batch(config, run, step)).loss for step in range(2, 4)]
        join(rank, 2)
        assert rank.status().copies == {2}
        rank.recover(Recovery(2))
        assert rank.status().step == 2
        again = [rank.train_step(runs.batch(config, run, step)).loss for step in range(2, 4)]
        assert again == losses[2:]


def test_what_cannot_be_copied_or_recovered_is_told(model: Path) -> None:
    with alone(model, runs.run_config(model)) as rank:
        with pytest.raises(RankLost, match=r"done 0 steps, a copy after 3 was asked for"):
            rank.copy(3)
        with pytest.raises(RankLost, match=r"no whole copy of .* after 1 steps"):
            rank.recover(Recovery(1))
        assert not rank.status().joined
        with pytest.raises(RankLost, match="has left epoch 1"):
            rank.copy(0)
