"""Ranks that are killed come back from the copies of their peers, and the run goes on as it was."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from actors.commands import BuildCommand, RankReport, Recovery
from actors.crew.gather import gather
from actors.deadlines import Deadlines
from actors.engine.meeting import Meeting
from actors.state.sources import Blank, ModelSource
from moe.checkpoint.reader import Checkpoint
from moe.config.run import RunConfig
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat, Seats
from moe.surgery.initialise import initialise
from tests import runs
from tests.ranks import SECONDS, Ranks, Team
from tests.routed import routed


def in_a_ring(seats: Seats) -> dict[Seat, Seat]:
    """Return holders: the next rank holds the copy of each."""
    return {seat: seats.seat((seats.rank(seat) + 1) % len(seats)) for seat in seats}


@dataclass
class Run:
    """A run whose ranks keep copies and whose dead ranks are replaced."""

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
        return in_a_ring(self.team.plan.seats)

    def step(self, step: int) -> list[RankReport]:
        assert self.team.run is not None
        config = Checkpoint.open(self.model).config
        return self.team.step(runs.batch(config, self.team.run, step))

    def copy(self, step: int) -> None:
        self.team.all("copy", step)
        self.team.all("exchange_copies", step, self.holders)

    def kill(self, *lost: int) -> None:
        for rank in lost:
            self.ranks.process(rank).kill()

    def meet(self, *lost: int) -> None:
        """Replace what was killed, and have all meet under the next epoch."""
        self.meeting.abort()
        plan, run = self.team.plan, self.team.run
        crew = self.ranks.crew(plan.seats)
        source = Blank.of(ModelSource(self.model))
        built = {
            seat: crew.tell(seat, "build", BuildCommand(plan, seat, runs.LENGTH, run), source)
            for seat in map(plan.seats.seat, lost)
        }
        gather(crew, built, "building", SECONDS)
        meeting = Meeting("test", plan, crew, Deadlines(group=SECONDS))
        meeting.epoch = self.meeting.epoch
        self.team, self.meeting = Team(crew, plan, run), meeting
        meeting.begin()

    def heal(self, step: int, *lost: int) -> None:
        self.meet(*lost)
        seats = self.team.plan.seats
        gives = {seats.seat(rank): self.holders[seats.seat(rank)] for rank in lost}
        self.team.all("recover", Recovery(step, gives))


def loss(reports: Sequence[RankReport]) -> float:
    return next(report.loss for report in reports if report.loss is not None)


def check_same(ones: Sequence[object], others: Sequence[object]) -> None:
    """Compare what ranks hold to the bit: weights, moments, masters, balance."""
    for one, other in zip(ones, others, strict=True):
        assert one.balance == other.balance
        for (part, weight), (_, expected) in zip(one.weights, other.weights, strict=True):
            assert torch.equal(weight, expected), part.name
        for (part, _, own), (_, _, expected) in zip(one.owned, other.owned, strict=True):
            assert all(torch.equal(own[name], expected[name]) for name in own), part.name


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("copies") / "model"
    initialise(routed(2, gate_norm=1.0), path, seed=0)
    return path


def test_a_rank_killed_after_a_step_comes_back_to_the_bit(ranks: Ranks, model: Path) -> None:
    plan, run = runs.plan(Checkpoint.open(model).config, (1, 1)), runs.run_config(model)
    undisturbed = Run.begun(ranks, model, plan, run)
    expected = [loss(undisturbed.step(step)) for step in range(4)]
    held = undisturbed.team.held()
    disturbed = Run.begun(ranks, model, plan, run)
    found = [loss(disturbed.step(step)) for step in range(2)]
    disturbed.copy(2)
    assert loss(disturbed.step(2)) == expected[2]
    disturbed.kill(1)
    disturbed.heal(2, 1)
    found += [loss(disturbed.step(step)) for step in range(2, 4)]
    assert found == expected
    check_same(disturbed.team.held(), held)
