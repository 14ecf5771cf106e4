"""Plans on a cluster of several Ray nodes: where actors go, what is refused, what a loss leaves.

The cluster is another process's (``tests.ray.scenarios``): nodes a (4 CPU, rack r0), b (4 CPU, rack
r1) and c (2 CPU, rack r1, role big).
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.ray.scenarios import SECONDS

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what every scenario saw."""
    path = tmp_path_factory.mktemp("scenarios") / "told.json"
    apart = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    run = subprocess.run(
        [sys.executable, "-m", "tests.ray.scenarios", str(path)],
        cwd=ROOT,
        env=apart | {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=SECONDS + 60,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    seen: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    failed = {name: each["failed"] for name, each in seen.items() if "failed" in each}
    assert not failed, "\n".join(failed.values())
    return seen


def test_gangs_are_together_and_replicas_apart(told: dict[str, Any]) -> None:
    spread = told["spread"]
    places = spread["places"]
    assert sorted(places) == [f"run/rank-{rank}" for rank in range(4)]
    assert places["run/rank-0"] == places["run/rank-1"] != "a"
    assert places["run/rank-2"] == places["run/rank-3"] == "a"
    assert spread["groups"] == {f"run/rank-{rank}": ["PACK", "CREATED"] for rank in range(4)}
    assert (spread["pids"], spread["left"]) == (4, [])


def test_resources_labels_and_memory_are_respected_and_reserved(told: dict[str, Any]) -> None:
    asking = told["asking"]
    assert asking["places"] == {"run/rank-0": "a", "run/rank-1": "b", "run/rank-2": "c"}
    assert asking["taken"] == {"a": {"memory": 1e9, "slot": 1.5}}
    assert asking["left"] == []


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (
            "label",
            "rank 1 (replica 0, stage 1) asks for a node with rack = r7, but of 4 nodes none",
        ),
        ("rank", "rank 1 (replica 0, stage 0) asks for 5 CPU on one node, but"),
        ("memory", "rank 0 (replica 0, stage 0) asks for 1 CPU, 3 GB memory on one node, but"),
        ("gang", "rank 1 (replica 0, stage 0) asks for 3 CPU on the node of its gang, which"),
        ("sum", "the plan needs 12 CPU for its 4 ranks but the cluster has 10 CPU, so the gang of"),
        ("packing", "but beside the other gangs the node nearest to it, node c, has 2 CPU left"),
    ],
)
def test_what_cannot_be_placed_is_refused_at_once_and_leaves_nothing(
    told: dict[str, Any], what: str, words: str
) -> None:
    refused = told["refused"][what]
    assert refused["type"] == "LaunchError"
    assert words in refused["text"]
    assert refused["seconds"] < 2
    assert refused["left"] == []


def test_what_is_busy_is_said_to_be_and_what_was_given_back_is_used(told: dict[str, Any]) -> None:
    error, freed = told["busy"]["error"], told["busy"]["freed"]
    assert error["type"] == "ClusterBusy"
    assert "asks for 3 CPU on one node" in error["text"]
    assert "has 1 CPU free of 4 CPU; the cluster would hold the plan if it were" in error["text"]
    assert error["seconds"] < 5
    assert error["left"] == []
    assert freed["places"] == {"run/rank-0": "b"}
    assert freed["left"] == []


def test_a_launch_waits_for_a_node_that_it_asks_for(told: dict[str, Any]) -> None:
    coming = told["coming"]
    (reason,) = coming["reasons"]
    assert "rank 1 (replica 0, stage 1) asks for a node with rack = r9" in reason
    assert coming["asked"] == [[{"CPU": 1.0}, "STRICT_PACK"]]
    assert coming["places"]["coming/rank-1"] == "late"
    assert (coming["count"], coming["left"]) == (2, [])
    assert coming["error"]["type"] == "LaunchError"
    assert 0.5 < coming["error"]["seconds"] < 5
    assert coming["still"] == []


def test_a_place_that_others_take_first_is_named_and_nothing_is_left(told: dict[str, Any]) -> None:
    late = told["forestalled"]
    assert late["type"] == "ClusterBusy"
    assert (
        "(replica 0, stage 1) asks for 2 CPU on the node of its gang and was to have"
        in late["text"]
    )
    assert "but others took some first: it has 1 CPU free of 4 CPU; try again" in late["text"]
    assert late["seconds"] < 6
    assert late["left"] == []


def test_selectors_take_the_nodes_that_they_take_in_ray(told: dict[str, Any]) -> None:
    assert len(told["selectors"]) == 8
    for text, (ours, rays) in told["selectors"].items():
        assert ours == rays, text
    assert {name for _, rays in told["selectors"].values() for name in rays} == {"a", "b", "c"}


def test_the_ranks_of_a_lost_node_go_to_another_and_all_ends_clean(told: dict[str, Any]) -> None:
    lost = told["lost"]
    assert set(lost["before"].values()) >= {"a"}
    gone = {name for name, node in lost["before"].items() if node == "a"}
    assert lost["count"] == len(lost["before"]) == 4
    assert lost["seconds"] < 15
    assert lost["after"].keys() == lost["before"].keys() - gone
    assert lost["running"]
    (other,) = {"b", "c"} - {*lost["after"].values()}
    assert lost["wanted"] == 1  # the gang of the node that is gone
    new = {f"lost/rank-{number}": other for number in (4, 5)}
    assert (lost["healed"], lost["missing"]) == (lost["after"] | new, 0)
    assert lost["refused"]["type"] == "LaunchError"
    assert lost["refused"]["left"] == lost["there"]
    assert lost["left"] == []
    assert lost["ended"] < 10
    assert lost["again"] in ("b", "c")
    assert (lost["error"]["type"], lost["error"]["left"]) == ("LaunchError", [])
    assert "asks for 3 CPU on one node, but beside the other gangs" in lost["error"]["text"]


def test_a_node_that_is_to_leave_is_not_chosen_and_its_gang_goes(told: dict[str, Any]) -> None:
    moved = [{"going/rank-0": "b"}, {"going/rank-1": "c"}]
    drained = told["drained"]
    ((leaving, seconds),) = drained.pop("leaving")
    assert leaving == "b"
    assert 590 < seconds <= 600
    assert drained == {"seen": ["c", "head"], "chosen": ["c"], "moved": moved}
