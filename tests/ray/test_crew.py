"""A crew of Ray actors does what every crew must."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from actors.crew import ending
from actors.crew.crew import Crew
from actors.crew.launch import launch
from actors.crew.reservation import groups_of
from cluster.session import Session
from moe.checkpoint.reader import Checkpoint
from tests import runs, tiny
from tests.crews import CASES

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def crew(ray_session: Session, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    model: Path = tiny.saved(tiny.mixtral(), tmp_path_factory.mktemp("model") / "model")
    plan = runs.plan(Checkpoint.open(model).config, (1, 1, 1))
    started = launch("crew", plan, detached=True, seconds=120.0)
    yield started
    ending.remove("crew")
    assert not ending.running("crew")
    assert not groups_of("crew")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_a_crew_of_actors(case: Callable[[Crew], None], crew: Crew) -> None:
    case(crew)
