"""A crew of plain processes does what every crew must."""

from collections.abc import Callable, Iterator

import pytest

from actors.crew.crew import Crew
from actors.crew.over_pipes import PipeCrew
from moe.errors import LaunchError
from moe.planning.plan.seats import Seat, Seats
from tests.crews import CASES, PAIR, soon


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    started = PipeCrew.start(Seats(1, 3, 1))
    yield started
    started.end()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_a_crew_of_processes(case: Callable[[Crew], None], crew: Crew) -> None:
    case(crew)


@pytest.fixture
def spread() -> Iterator[PipeCrew]:
    """Three gangs of two on two nodes."""
    started = PipeCrew.start(Seats(1, 3, 2), nodes=("a", "b"))
    yield started
    started.end()


def test_gangs_are_dealt_to_nodes_and_go_to_others_when_theirs_is_lost(spread: PipeCrew) -> None:
    assert list(spread.nodes().values()) == ["a", "a", "b", "b", "a", "a"]
    spread.lose("b")
    gang = [Seat(0, 1, 0), Seat(0, 1, 1)]
    assert _until_lost(spread, 2) == gang
    spread.replace(gang, 30.0)
    assert {*spread.nodes().values()} == {"a"}
    assert spread.lost() == {}
    spread.lose("a")
    with pytest.raises(LaunchError, match="there is no node for replica 0 stage 0 member 0"):
        spread.replace(_until_lost(spread, 6), 30.0)
    with pytest.raises(LaunchError, match="there is no node"):
        spread.becoming(PAIR, {}, 30.0)


def _until_lost(crew: PipeCrew, count: int) -> list[Seat]:
    soon(lambda: len(crew.lost()) == count)
    return sorted(crew.lost())
