"""Resizes of teams of ranks, commanded as a driver does it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch

from actors.calls import Answer
from actors.commands import BuildCommand
from actors.crew.gather import gather
from actors.crew.over_pipes import PipeCrew
from actors.deadlines import Deadlines
from actors.engine.meeting import Meeting
from actors.moving.transfer import Moved, Place, Transfer
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.training import SaveContext
from moe.config.model import ModelConfig
from moe.config.run import RunConfig
from moe.planning.counts.workload import Workload
from moe.planning.moves.messages import Resize, resize
from moe.planning.moves.seating import Seating
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat, Seats
from tests import runs
from tests.ranks import SECONDS, Held, Ranks, Team, single_threaded

_NAMES = count()


@dataclass
class Resizing:
    """A resize of a team: its processes by their numbers in the pool, and what each is told.

    ``old`` has the processes of the old plan; ``parts`` those of the resize, number after number.
    """

    ranks: Ranks
    team: Team
    plan: Plan
    resize: Resize
    numbers: list[int]
    crew: PipeCrew
    step: int

    def told(self, seconds: float = SECONDS, without: Seat | None = None) -> dict[Seat, Answer]:
        """Have every process do its part, but for one; return the answers to come."""
        seats = list(self.crew.seats)
        assert self.team.run is not None
        config = Checkpoint.open(self.team.run.model.path).config
        host, port = self.crew.tell(seats[0], "open_store", seconds).result(SECONDS)
        place = Place(f"test/resize-{next(_NAMES)}", host, port, len(seats), seconds)
        answers = {}
        for part, seat in zip(self.resize.parts, seats, strict=True):
            command = None
            if part.new is not None:
                command = BuildCommand(self.plan, part.new, runs.LENGTH, self.team.run)
            transfer = Transfer(self.step, place, part, config, command)
            if seat != without:
                answers[seat] = self.crew.tell(seat, "move", transfer)
        return answers

    def moved(self) -> list[Moved]:
        """Have every process do its part, and return what each reports."""
        return gather(self.crew, self.told(), "a resize", 2 * SECONDS)

    def committed(self, epoch: int) -> Team:
        """Have every process take its new share and meet under an epoch."""
        seats = list(self.crew.seats)[: len(self.plan.seats)]
        answers = {seat: self.crew.tell(seat, "become") for seat in seats}
        gather(self.crew, answers, "becoming", SECONDS)
        numbers = self.numbers[: len(self.plan.seats)]
        return met(self.ranks.crew_of(self.plan.seats, numbers), self.plan, self.team.run, epoch)


def staying(stays: Mapping[Seat, Seat]) -> Seating:
    """Return the seating where nobody is lost."""
    return Seating(stays, frozenset(), {}, {})


def resizing(
    ranks: Ranks, team: Team, config: ModelConfig, plan: Plan, seating: Seating, step: int = 2
) -> Resizing:
    """Prepare a resize of a team that has the first processes of a pool.

    New processes are the next ones.
    """
    old, plan = team.plan, single_threaded(plan)
    found = resize(config, old, plan, workload_of(team.run), seating)
    fresh = count(len(old.seats))
    numbers = [
        next(fresh) if part.old is None else old.seats.rank(part.old) for part in found.parts
    ]
    crew = ranks.crew_of(Seats(len(numbers), 1, 1), numbers)
    for seat, part in zip(crew.seats, found.parts, strict=True):
        if part.old is None:
            crew.tell(seat, "empty").result(SECONDS)
    return Resizing(ranks, team, plan, found, numbers, crew, step)


def workload_of(run: RunConfig | None) -> Workload:
    assert run is not None
    return Workload.of_run(run.train, runs.LENGTH, run.train.micro_batches, gpus=False)


def met(crew: PipeCrew, plan: Plan, run: RunConfig | None, epoch: int) -> Team:
    """Have the ranks of a plan meet under an epoch."""
    meeting = Meeting("test", plan, crew, Deadlines(group=SECONDS))
    meeting.epoch = epoch - 1
    meeting.begin()
    return Team(crew, plan, run)


def saved(team: Team, to: Path, step: int) -> Path:
    """Write a checkpoint of a team."""
    assert team.run is not None
    config = Checkpoint.open(team.run.model.path).config
    team.save(to, SaveContext(config, team.run, team.run.model.path, "data"), step)
    return to


def check_equal(found: Sequence[Held], expected: Sequence[Held]) -> None:
    """Check that ranks hold the same to the bit: every value of every tensor, every balance."""
    for one, other in zip(found, expected, strict=True):
        assert [part for part, _ in one.weights] == [part for part, _ in other.weights]
        for (part, weight), (_, theirs) in zip(one.weights, other.weights, strict=True):
            assert weight.dtype == theirs.dtype
            assert torch.equal(weight, theirs), part.name
        assert [each[:2] for each in one.owned] == [each[:2] for each in other.owned]
        for (part, _, values), (*_, theirs) in zip(one.owned, other.owned, strict=True):
            assert values.keys() == theirs.keys()
            for name, value in values.items():
                assert torch.equal(value, theirs[name]), (part.name, name)
        assert one.balance == other.balance
