"""The node of a run's driver: one with the labels of ``cluster.driver_labels``.

Where the driver has a pod of its own, that pod may come after the head, and after a loss it comes
back: Ray Train waits for it as long as a launch waits for the ranks' nodes.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence

from cluster.probe import nodes_of_ray
from moe.config.run import RunConfig
from moe.errors import ClusterError, ConfigError, PlanError
from moe.planning.devices.labels import all_take, for_ray
from moe.planning.devices.needs import check_needs
from pipelines.training.coming import wait_seconds, waiting_text

LOOK_SECONDS = 1.0
START_SECONDS = 60.0
"""Seconds that Ray Train gives its worker to find a place where it is told nothing else."""

START = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
"""Variable by which Ray Train knows how long all of its workers may take to start."""

Labels = Mapping[str, str]


def _labels_of_nodes() -> list[Labels]:
    return [node.labels for node in nodes_of_ray()]


def check_labels(run: RunConfig) -> None:
    """Raise ConfigError for labels that no node can have."""
    try:
        check_needs("cluster.driver_labels", (), tuple(run.cluster.driver_labels.items()))
    except PlanError as error:
        raise ConfigError(str(error)) from None


def selector(run: RunConfig) -> dict[str, str] | None:
    """Return what Ray Train is told of the driver's node; None for any node."""
    return for_ray(run.cluster.driver_labels.items()) or None


def be_patient(run: RunConfig) -> None:
    """Have Ray Train wait for the driver's node as long as a launch waits for the ranks'."""
    if run.cluster.driver_labels:
        os.environ.setdefault(START, f"{max(START_SECONDS, wait_seconds(run)):g}")


def await_node(
    run: RunConfig,
    tell: Callable[[str], object],
    there: Callable[[], Sequence[Labels]] = _labels_of_nodes,
) -> None:
    """Return once some node can have the driver; ClusterError where none came in time."""
    wished, seconds = run.cluster.driver_labels, wait_seconds(run)
    if not wished:
        return
    words = ", ".join(f"{key}={text}" for key, text in wished.items())
    deadline, told = time.monotonic() + seconds, False
    while not any(all_take(wished.items(), labels) for labels in there()):
        if time.monotonic() >= deadline:
            raise ClusterError(
                f"no node of the cluster has the labels of cluster.driver_labels ({words}), so the "
                "driver has no place; start such a node, correct the labels, or leave them out"
            )
        if not told:
            tell(waiting_text(seconds, f"the driver asks for a node with {words}"))
            told = True
        time.sleep(LOOK_SECONDS)
