"""A rank of this process that holds a whole model and trains without others."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from actors.commands import BuildCommand
from actors.epochs.membership import Membership
from actors.rank.rank import Rank
from actors.state.sources import ModelSource
from actors.state.tuned import source_of
from moe.checkpoint.reader import Checkpoint
from moe.config.run import RunConfig
from moe.planning.plan.seats import Seats
from tests import runs
from tests.ranks import SECONDS

ALONE = Seats(1, 1, 1)


def rank_of_this_process(number: int = 0) -> Rank:
    """Return a rank that ends nothing where it waits for a driver longer than the tests run."""
    return Rank(number, alone=lambda seconds: None)


@contextmanager
def alone(model: Path, run: RunConfig) -> Iterator[Rank]:
    """A rank that holds everything and runs two of its layers twice."""
    plan = runs.recomputing(runs.plan(Checkpoint.open(model).config, (3,)), (0, 2))
    rank = rank_of_this_process()
    source = ModelSource(model) if run.train.tuning is None else source_of(run, None)
    rank.build(BuildCommand(plan, ALONE.seat(0), runs.LENGTH, run), source)
    join(rank, 1)
    try:
        yield rank
    finally:
        rank.abort()


def join(rank: Rank, epoch: int) -> None:
    store = rank.open_store(SECONDS)
    rank.join(Membership("test", epoch, ALONE.seat(0), ALONE, (0,), *store, SECONDS))
