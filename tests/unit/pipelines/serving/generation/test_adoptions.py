"""Adapters come beside running batches, go when nobody uses them, and come back after a loss."""

import threading
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import pytest

from actors.commands import AdapterSource
from moe.errors import CheckpointError, RankLost
from pipelines.serving.generation.adoptions import Adoptions
from pipelines.serving.refusals import Unavailable


@dataclass(eq=False)
class Taking:
    number: int
    over: bool = False


class Ranks:
    """Takes up an adapter when the test says so, and tells what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.takings: list[Taking] = []
        self.errors: dict[int, Exception] = {}

    def adopt(self, source: AdapterSource) -> Taking:
        self.told.append(f"adopt {source.number}")
        self.takings.append(Taking(source.number))
        return self.takings[-1]

    def adopted(self, taking: Taking) -> None:
        if taking.number in self.errors:
            raise self.errors[taking.number]

    def drop(self, adapter: int) -> None:
        self.told.append(f"drop {adapter}")


def source(number: int) -> AdapterSource:
    return AdapterSource(number, Path("somewhere"), str(number))


@pytest.fixture
def there() -> tuple[Adoptions, Ranks]:
    """Adapters 1 and 2 on the ranks."""
    adoptions, ranks = Adoptions(), Ranks()
    done = [adoptions.come(source(number)) for number in (1, 2)]
    adoptions.turn(ranks, set())
    for taking in ranks.takings:
        taking.over = True
    adoptions.turn(ranks, set())
    assert all(each.done() for each in done)
    return adoptions, ranks


def test_nobody_waits_while_one_comes() -> None:
    adoptions, ranks = Adoptions(), Ranks()
    done = adoptions.come(source(1))
    for _ in range(3):
        adoptions.turn(ranks, set())
        assert adoptions.pending
        assert not adoptions.holds(1)
    ranks.takings[0].over = True
    adoptions.turn(ranks, set())
    assert done.result(0) is None
    assert adoptions.holds(1)
    assert not adoptions.pending
    assert ranks.told == ["adopt 1"]


def test_one_goes_when_nobody_uses_it(there: tuple[Adoptions, Ranks]) -> None:
    adoptions, ranks = there
    gone = adoptions.go(1)
    adoptions.turn(ranks, {1, 2})
    assert adoptions.holds(1)
    assert not gone.done()
    adoptions.turn(ranks, {2})
    assert gone.result(0) is None
    assert (adoptions.holds(1), adoptions.holds(2)) == (False, True)
    assert ranks.told[-1] == "drop 1"


def test_one_that_cannot_be_read_costs_itself_alone(there: tuple[Adoptions, Ranks]) -> None:
    adoptions, ranks = there
    ranks.errors[3] = CheckpointError("it has changed")
    failed = adoptions.come(source(3))
    adoptions.turn(ranks, set())
    ranks.takings[-1].over = True
    adoptions.turn(ranks, set())
    assert isinstance(failed.exception(0), CheckpointError)
    assert ranks.told[-1] == "drop 3"
    assert not adoptions.pending


def test_a_lost_rank_is_told_to_whoever_mends(there: tuple[Adoptions, Ranks]) -> None:
    adoptions, ranks = there
    ranks.errors[3] = RankLost("rank 1 died")
    failed = adoptions.come(source(3))
    adoptions.turn(ranks, set())
    ranks.takings[-1].over = True
    with pytest.raises(RankLost):
        adoptions.turn(ranks, set())
    assert isinstance(failed.exception(0), RankLost)


def test_all_come_again_after_a_loss(there: tuple[Adoptions, Ranks]) -> None:
    adoptions, ranks = there
    coming = adoptions.come(source(3))
    adoptions.turn(ranks, set())
    ranks.told.clear()
    adoptions.restart()
    ranks.errors[2] = RankLost("again")
    with pytest.raises(RankLost):
        adoptions.renew(ranks)
    ranks.errors[2] = CheckpointError("its files are gone")
    adoptions.restart()
    assert adoptions.renew(ranks).keys() == {2}
    assert (adoptions.holds(1), adoptions.holds(2)) == (True, False)
    assert adoptions.renew(ranks) == {}
    adoptions.turn(ranks, set())
    ranks.takings[-1].over = True
    adoptions.turn(ranks, set())
    assert coming.result(0) is None
    assert ranks.told.count("adopt 3") == 1


def test_the_end_fails_what_is_to_come(there: tuple[Adoptions, Ranks]) -> None:
    adoptions, _ = there
    found: list[Future[None]] = []
    asking = threading.Thread(target=lambda: found.append(adoptions.come(source(9))))
    asking.start()
    asking.join()
    gone = adoptions.go(1)
    adoptions.end(Unavailable("the server is shutting down"))
    assert isinstance(found[0].exception(0), Unavailable)
    assert gone.result(0) is None
    assert isinstance(adoptions.come(source(10)).exception(0), Unavailable)
    assert adoptions.go(2).result(0) is None
    assert not adoptions.pending
