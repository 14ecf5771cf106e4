"""A run that has room for copies keeps them; one that has not says so, and what that costs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moe.errors import PlanError
from moe.planning.devices.inventory import Inventory
from moe.planning.prediction.copies import CopyRoom, room_for_copies
from moe.planning.prediction.predict import bytes_per_rank
from pipelines.planning.run_work import workload
from pipelines.training.copy_room import decided, planned, standing_in, without_copies
from tests import runs
from tests.plans import SMOLLM2, inventory

PLAN = runs.plan(SMOLLM2, (15, 15))
ROOM = CopyRoom((4_000_000, 8_000_000), (0, 0))
SHORT = CopyRoom((4_000_000, 8_000_000), (0, 3_000_000))


@pytest.mark.parametrize(
    ("every", "room", "kept", "words"),
    [
        ("auto", ROOM, True, "take at most 8.00 MB a rank: a lost rank comes back from one"),
        (3, ROOM, True, "a lost rank comes back from one"),
        ("auto", SHORT, False, "rank 1 lacks 3.00 MB. Without them every loss "),
        ("auto", SHORT, False, ". This run keeps none"),
        (3, SHORT, True, "kept all the same, because elastic.copy_every is 3"),
    ],
)
def test_copies_are_kept_where_they_fit_or_are_asked_for(
    every: Any, room: CopyRoom, kept: bool, words: str, tmp_path: Path
) -> None:
    run = runs.run_config(tmp_path, elastic={"copy_every": every})
    found = decided(run, PLAN, room)
    assert found.run.elastic.copies == kept
    assert found.plan == PLAN
    assert words in found.told


def test_a_plan_of_another_cluster_is_held_against_the_smallest_device_of_this_one() -> None:
    large, small = (inventory(2, memory_bytes=size).devices for size in (10**10, 10**9))
    there = Inventory((large[0], replace(small[1], name="small")))
    found = standing_in(there, runs.repeated(PLAN, 2))
    assert found.devices[:2] == there.devices
    assert [device.name for device in found.devices[2:]] == ["test/0", "test/1"]
    assert {device.memory_bytes for device in found.devices[2:]} == {10**9}
    assert standing_in(found, runs.repeated(PLAN, 2)) == found


@pytest.mark.parametrize(
    ("plan", "replicas", "copies"),
    [({"stages": 1}, 1, False), ({"stages": 1}, 2, True), ({"stages": 2}, 1, True)],
)
def test_a_plan_that_is_made_has_room_for_copies(
    plan: dict[str, Any], replicas: int, copies: bool, tmp_path: Path
) -> None:
    """A run of one rank has no peer to hold a copy."""
    run = runs.run_config(tmp_path, plan=plan)
    assert workload(run, 16, inventory(2), replicas).copies == copies
    assert not workload(without_copies(run), 16, inventory(2), replicas).copies


@pytest.mark.parametrize(
    ("every", "stages", "gigabytes", "kept", "words"),
    [
        ("auto", 2, 100.0, True, "copies of ranks in their peers take at most "),
        ("auto", 2, 4.0, False, "This run keeps none"),
        (0, 2, 100.0, False, "because elastic.copy_every is 0"),
        ("auto", 1, 100.0, True, "no copies of ranks are kept while the run has one rank"),
    ],
)
def test_a_run_is_planned_with_room_for_copies_or_without(
    every: Any, stages: int, gigabytes: float, kept: bool, words: str, tmp_path: Path
) -> None:
    there = inventory(2, memory_bytes=int(gigabytes * 1e9))
    run = runs.run_config(
        tmp_path, elastic={"copy_every": every}, plan={"stages": stages}, train={"micro_batch": 1}
    )
    found = planned(run, SMOLLM2, 16, there)
    assert found.run.elastic.copies == kept
    assert words in found.told
    copies = room_for_copies(SMOLLM2, found.plan, there, workload(without_copies(run), 16, there))
    reserved = [rank.memory_bytes for stage in found.plan.stages for rank in stage.ranks]
    needs = bytes_per_rank(SMOLLM2, found.plan, workload(found.run, 16, there))
    assert reserved == list(needs)
    assert copies.fits == (gigabytes > 4.0)


def test_a_run_that_does_not_even_fit_without_copies_is_refused(tmp_path: Path) -> None:
    run = runs.run_config(tmp_path, plan={"stages": 2})
    with pytest.raises(PlanError, match=r"raise plan\.stages"):
        planned(run, SMOLLM2, 16, inventory(2, memory_bytes=10**8))
