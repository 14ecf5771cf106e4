"""A run as a Ray job: sent to a cluster with its code, its log followed to the end."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import tomli_w

from cluster.job_words import Code
from cluster.jobs import Job, follow, submit
from cluster.training_job import Resume, TrainingJob
from moe.config.run import RunConfig
from pipelines.deploying.run_table import run_table


@dataclass(frozen=True, slots=True)
class Target:
    """Where a run is sent: the address of the dashboard, the cluster's interpreter, whether to
    resume, and where the code comes from (None: from here, if this is a source tree).
    """

    address: str
    python: str = "python"
    resume: Resume = "never"
    code: Code | None = None


def send_run(run: RunConfig, target: Target, on_line: Callable[[str], None]) -> Job:
    """Submit a run, or join the job that runs it. Paths are paths on the cluster."""
    text = tomli_w.dumps(run_table(run))
    training = TrainingJob(run.name, text, _words(run), target.python, target.resume, target.code)
    request = training.request()
    job = submit(target.address, request)
    sent = "sent along" if request.working_dir else "not sent"
    on_line(f"code: {request.metadata['code']} ({sent})")
    on_line(f"{'joined' if job.joined else 'submitted'} job {job.identifier} on {job.address}")
    return job


def submit_run(run: RunConfig, target: Target, on_line: Callable[[str], None]) -> str:
    """Submit a run and follow it; return the final status of the job."""
    return follow(send_run(run, target, on_line), on_line)


def _words(run: RunConfig) -> dict[str, str]:
    """Return what lists of jobs say of a run."""
    return {
        "model": os.fspath(run.model.path),
        "data": os.fspath(run.data.path),
        "checkpoint": str(run.checkpoint.location),
        "plan": _plan_words(run),
    }


def _plan_words(run: RunConfig) -> str:
    if run.plan.path is not None:
        return os.fspath(run.plan.path)
    shape = run.plan
    return f"{shape.stages} stages x {shape.gang} ranks x {shape.replicas} replicas"
