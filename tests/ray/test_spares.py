"""Warm processes: a rank that takes one over starts sooner, and holds what it should."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private.state import actors as actor_table

from actors.commands import BuildCommand
from actors.crew.launch import find, launch
from actors.crew.over_ray import RayCrew
from actors.crew.reservation import actors_of, groups_of
from actors.state.sources import ModelSource
from cluster.session import Session
from moe.checkpoint.reader import Checkpoint
from moe.errors import RankDied
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat
from tests import runs, tiny
from tests.crews import gone, kill, pids, soon

pytestmark = pytest.mark.ray

FIRST, SECOND = Seat(0, 0, 0), Seat(0, 1, 0)
PATIENCE = 60.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.saved(tiny.mixtral(), tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def plan(model: Path) -> Plan:
    return runs.plan(Checkpoint.open(model).config, (1, 2))


@pytest.fixture(scope="module")
def crew(ray_session: Session, plan: Plan) -> Iterator[RayCrew]:
    started = launch("warm", plan, detached=True, seconds=120.0)
    yield started
    started.end()
    assert (actors_of("warm"), groups_of("warm")) == ([], [])


def test_a_warm_process_becomes_a_rank_sooner_than_a_new_one_starts(crew: RayCrew) -> None:
    before, groups, cold = free(), groups_of("warm"), replaced(crew, SECOND)
    spare = warmed(crew)
    assert free() == before
    first = pids(crew, [FIRST])
    warm = replaced(crew, SECOND)
    assert warm < cold / 2, f"{warm:.2f} s, a new one {cold:.2f} s"
    assert pids(crew) == [*first, spare]
    assert (free(), groups_of("warm")) == (before, groups)
    assert replaced(crew, SECOND) > warm  # nobody keeps what was taken
    assert len(actors_of("warm")) == 2


def test_a_warm_process_that_has_died_is_not_taken(crew: RayCrew) -> None:
    spare = warmed(crew)
    os.kill(spare, signal.SIGKILL)
    soon(lambda: len(actors_of("warm")) == 2)
    replaced(crew, FIRST)
    assert crew.lost() == {}
    assert spare not in pids(crew)


def test_those_that_nobody_took_end(crew: RayCrew) -> None:
    spare = warmed(crew)
    crew.warm(0)
    assert crew.spares() == 0
    soon(lambda: gone(spare))


def test_a_crew_is_found_by_who_sits_where_and_ends_all_others(
    crew: RayCrew, model: Path, plan: Plan
) -> None:
    spare, seated = warmed(crew), pids(crew)
    replaced(crew, SECOND)
    assert find("warm", plan) is None
    crew.tell(SECOND, "build", BuildCommand(plan, SECOND, 8), ModelSource(model)).result(PATIENCE)
    found = find("warm", plan)
    assert found is not None
    assert [*found.lost()] == [FIRST]
    with pytest.raises(RankDied, match="no actor sits on replica 0 stage 0"):
        found.tell(FIRST, "status").result(PATIENCE)
    assert found.nodes() == {SECOND: crew.nodes()[SECOND]}
    found.end_others()
    soon(lambda: gone(seated[0]))
    assert len(groups_of("warm")) == 1
    found.replace(found.lost(), PATIENCE)
    assert pids(found) == [pids(found, [FIRST])[0], spare]
    assert len(actors_of("warm")) == len(groups_of("warm")) == 2


def replaced(crew: RayCrew, seat: Seat) -> float:
    """Kill a rank, and return how long the next takes to start."""
    kill(crew, seat)
    soon(lambda: seat in crew.lost())
    started = time.monotonic()
    crew.replace([seat], PATIENCE)
    return time.monotonic() - started


def warmed(crew: RayCrew) -> int:
    """Have a warm process, and return its number."""
    crew.warm(1)
    until(lambda: crew.spares() == 1)
    table = actor_table().values()
    living = {row["Pid"] for row in table if row["Name"].startswith("warm/") and alive(row)}
    (spare,) = living - {*pids(crew)}
    return int(spare)


def alive(row: dict[str, Any]) -> bool:
    return bool(row["State"] == "ALIVE")


def free() -> float:
    """Return the CPUs that are free, once Ray has counted them."""
    time.sleep(0.5)
    return float(ray.available_resources()["CPU"])


def until(seen: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.05)
