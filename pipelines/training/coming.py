"""A run whose nodes are still to come: it waits for them before its plan is made.

In a Ray job that is the rule, for pods that an autoscaler or a queue starts. Room for the ranks of
a plan is asked for and waited for where they are launched (``actors.crew.patience``).
"""

import time
from collections.abc import Callable

from actors.crew.nodes.nodes import living_nodes
from cluster.session import inside_job
from moe.config.model import ModelConfig
from moe.config.run import RunConfig
from moe.errors import ClusterError, PlanError
from moe.planning.devices.inventory import Inventory
from pipelines.planning.probing import Findings
from pipelines.training.copy_room import Planned, planned
from pipelines.training.mended import first_line
from pipelines.training.run_plan import devices, measured

JOB_SECONDS = 1200.0
"""Node autoscalers take minutes for a node with GPUs, and its image some more."""

LOOK_SECONDS = 1.0


def wait_seconds(run: RunConfig) -> float:
    """Return for how many seconds a launch of a run waits for room."""
    given = run.cluster.wait_seconds
    if given is None:
        return JOB_SECONDS if inside_job() else 0.0
    return given


def waiting_text(seconds: float, reason: str) -> str:
    """Return the line that says for what a run waits."""
    return f"waiting for room, at most {seconds:g} s: {reason}"


def measured_and_planned(
    run: RunConfig, config: ModelConfig, sequence_length: int, tell: Callable[[str], object]
) -> tuple[Findings, Planned]:
    """Return what the nodes measure, and the plan of a run on them, as soon as one fits.

    A run with a plan of its own needs no nodes for that.
    """
    seconds, told = wait_seconds(run), ""
    deadline = time.monotonic() + seconds
    while True:
        nodes = living_nodes()
        try:
            found = measured(run, config, sequence_length)
            return found, planned(run, config, sequence_length, _devices(run, found))
        except (PlanError, ClusterError) as error:
            if time.monotonic() > deadline:
                raise
            if (reason := first_line(error)) != told:
                told = reason
                tell(waiting_text(seconds, reason))
        while time.monotonic() < deadline and living_nodes() == nodes:
            time.sleep(LOOK_SECONDS)


def _devices(run: RunConfig, found: Findings) -> Inventory | None:
    """Return the devices of the cluster; None where there are none yet and the run has its plan."""
    try:
        return devices(run, found)
    except ClusterError:
        if run.plan.path is None:
            raise
        return None
