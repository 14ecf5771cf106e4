"""A crew of plain processes does what every crew must."""

from collections.abc import Callable, Iterator

import pytest

from actors.crew.crew import Crew
from actors.crew.over_pipes import PipeCrew
from moe.planning.plan.seats import Seats
from tests.crews import CASES


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    started = PipeCrew.start(Seats(1, 3, 1))
    yield started
    started.end()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_a_crew_of_processes(case: Callable[[Crew], None], crew: Crew) -> None:
    case(crew)
