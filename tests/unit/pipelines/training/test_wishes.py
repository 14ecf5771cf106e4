"""A wish for another plan: what it comes to, and what is refused before anything starts."""

from pathlib import Path

import pytest

from moe.errors import ConfigError, PlanError
from moe.planning.devices.inventory import CPU, Device, Inventory
from moe.planning.plan.seats import Seat
from pipelines.training.wishes import Present, Wish, smaller, wished
from tests import exports, runs
from tests.places import room
from tests.routed import routed

CONFIG = routed(3)


@pytest.fixture(scope="module")
def present(tmp_path_factory: pytest.TempPathFactory) -> Present:
    """Two replicas of two stages on nodes a and b; node c is free. Every node has two devices."""
    model: Path = exports.export(CONFIG, tmp_path_factory.mktemp("wishes") / "model")
    there = Inventory(
        tuple(Device(f"{node}/cpu{n}", node, CPU, 2**33, 1) for node in "abc" for n in (0, 1))
    )
    plan = runs.repeated(runs.plan(CONFIG, (2, 1)), 2)
    run = runs.run_config(model, train={"global_batch": 16})
    return Present(run, CONFIG, runs.LENGTH, plan, there, ("a", "b"))


def test_fewer_replicas_are_the_first_ones(present: Present) -> None:
    assert wished(Wish(replicas=1), present) == present.plan.of_replicas(1)


def test_more_replicas_are_like_the_first_on_devices_that_are_free(present: Present) -> None:
    found = wished(Wish(replicas=3), present)
    assert found.of_replicas(2) == present.plan
    assert found.replicas == 3
    new = {rank.devices[2] for stage in found.stages for rank in stage.ranks}
    assert len(new) == 2
    assert new <= {device.name for device in present.there.devices}


def test_another_number_of_nodes_cuts_the_stages_anew(present: Present) -> None:
    found = wished(Wish(nodes=1), present)
    assert {rank.device[0] for stage in found.stages for rank in stage.ranks} == {"a"}
    assert found.replicas * found.ranks <= 2


@pytest.mark.parametrize(
    ("wish", "why"),
    [
        (Wish(replicas=2), "has this plan already"),
        (Wish(replicas=6), "asked for 6 replicas, but no node"),
        (Wish(plan=runs.repeated(runs.plan(CONFIG, (2, 1)), 5)), "8 micro-batches"),
        (Wish(nodes=4), "asked for 4 nodes of 3"),
        (Wish(plan=runs.plan(routed(2), (1, 1))), "layers"),
    ],
)
def test_a_wish_that_no_plan_meets_is_refused(wish: Wish, why: str, present: Present) -> None:
    with pytest.raises(PlanError, match=why):
        wished(wish, present)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "0 of --rep"),
        ({"replicas": 1, "nodes": 1}, "2 of --rep"),
        ({"nodes": 0}, "--nodes is 0"),
    ],
)
def test_one_wish_is_given_at_a_time(given: dict[str, int], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        Wish(replicas=given.get("replicas"), nodes=given.get("nodes"))


def test_what_is_left_of_a_run_is_planned_as_the_run_file_prefers(present: Present) -> None:
    gone = frozenset({Seat(1, 0, 0)})
    fewer = smaller("replicas", gone, present)
    assert fewer is not None
    assert fewer.replicas == 1
    cut = smaller("stages", gone, present)
    assert cut is not None
    assert cut.replicas == 2


@pytest.mark.parametrize(("cpus", "replicas"), [(0, None), (1, None), (3, 1), (9, 1)])
def test_a_run_of_which_nothing_is_left_has_the_replicas_that_can_start(
    cpus: int, replicas: int | None, present: Present
) -> None:
    there = [room("a", CPU=cpus)] if cpus else []
    found = smaller("replicas", frozenset(present.plan.seats), present, lambda: there)
    assert (None if found is None else found.replicas) == replicas
