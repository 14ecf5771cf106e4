"""A run as a Ray job: sent to a cluster with the source tree, its log followed to the end."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import tomli_w

from cluster.jobs import follow, submit, training_request
from moe.config.run import RunConfig


@dataclass(frozen=True, slots=True)
class Target:
    """Where a run is sent: the address of the dashboard, the cluster's interpreter, and whether to
    resume.
    """

    address: str
    python: str = "python"
    resume: bool = False


def submit_run(run: RunConfig, target: Target, on_line: Callable[[str], None]) -> str:
    """Submit a run and follow it; return the final status of the job. Paths are paths on the
    cluster.
    """
    table = run.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    table["cluster"] = table.get("cluster", {}) | {"address": "auto"}
    table["cluster"].pop("cpus", None)
    request = training_request(
        run.name, tomli_w.dumps(table), _plan_words(run), target.python, target.resume
    )
    job = submit(target.address, request)
    on_line(f"{'joined' if job.joined else 'submitted'} job {job.identifier} on {job.address}")
    return follow(job, on_line)


def _plan_words(run: RunConfig) -> str:
    if run.plan.path is not None:
        return os.fspath(run.plan.path)
    return f"{run.plan.stages} stages x {run.plan.gang} ranks"
