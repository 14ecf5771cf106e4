"""Where the driver of a run may be, and how long that place is waited for."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moe.config.run import RunConfig
from moe.errors import ClusterError, ConfigError
from pipelines.training import driver_node
from pipelines.training.driver_node import await_node, be_patient, check_labels
from pipelines.training.trainers import scaling_config
from tests import runs

DRIVER, RANK, HEAD = {"raymoe/role": "driver"}, {"raymoe/role": "rank"}, dict[str, str]()
PATIENCE = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"


def run_of(tmp_path: Path, labels: dict[str, str] = DRIVER, **cluster: Any) -> RunConfig:
    return runs.run_config(tmp_path, cluster={"driver_labels": labels, **cluster})


def test_ray_train_places_the_driver_by_its_labels_and_anywhere_without(tmp_path: Path) -> None:
    pinned = scaling_config(run_of(tmp_path))
    assert pinned._label_selector_per_worker(1) == [DRIVER]
    spaced = scaling_config(run_of(tmp_path, {"pool": "in(a, b)"}))
    assert spaced.label_selector == {"pool": "in(a,b)"}  # as Ray reads it
    assert scaling_config(run_of(tmp_path, {})).label_selector is None


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"a b": "x"}, "labels names 'a b', which is no key of a label"),
        ({"pool": "x y"}, r"labels\.pool: label selector 'x y' is invalid"),
    ],
)
def test_labels_that_no_node_can_have_are_refused(
    tmp_path: Path, labels: dict[str, str], words: str
) -> None:
    with pytest.raises(ConfigError, match=rf"cluster\.driver_labels: {words}"):
        check_labels(run_of(tmp_path, labels))
    check_labels(run_of(tmp_path))


def test_a_driver_whose_pod_comes_after_the_head_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_node, "LOOK_SECONDS", 0.0)
    coming: Iterator[list[dict[str, str]]] = iter([[HEAD], [HEAD, RANK], [HEAD, RANK, DRIVER]])
    lines: list[str] = []
    await_node(run_of(tmp_path, wait_seconds=60.0), lines.append, lambda: next(coming))
    assert lines == [
        "waiting for room, at most 60 s: the driver asks for a node with raymoe/role=driver"
    ]
    await_node(run_of(tmp_path, {}), lines.append, lambda: pytest.fail("nobody asks for a node"))


def test_a_node_that_does_not_come_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"has the labels of cluster\.driver_labels \(raymoe"):
        await_node(run_of(tmp_path), str, lambda: [HEAD, RANK])


def test_ray_train_is_as_patient_as_a_launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seconds, told in ((600.0, "600"), (5.0, "60")):
        monkeypatch.delenv(PATIENCE, raising=False)
        be_patient(run_of(tmp_path, wait_seconds=seconds))
        assert os.environ[PATIENCE] == told
    monkeypatch.delenv(PATIENCE)
    be_patient(run_of(tmp_path, {}, wait_seconds=600.0))
    assert PATIENCE not in os.environ
    monkeypatch.setenv(PATIENCE, "7")
    be_patient(run_of(tmp_path))
    assert os.environ[PATIENCE] == "7"
