"""``raymoe jobs list|logs|stop``: the jobs of a Ray cluster."""

import time
from typing import Annotated

import typer

from moe.errors import ClusterError
from pipelines.commands.submit import Dashboard
from pipelines.screen.terminal import console, say

LIST_EXAMPLE = "raymoe jobs list --address http://10.0.0.1:8265"
LOGS_EXAMPLE = "raymoe jobs logs raymoe-demo-1291bb34"
STOP_EXAMPLE = "raymoe jobs stop raymoe-demo-1291bb34"

Identifier = Annotated[str, typer.Argument(metavar="JOB", help="Identifier of the job.")]


def list_(address: Dashboard = "auto") -> None:
    """List the jobs of a cluster, the newest first: run, status, plan, code, checkpoints."""
    from rich import box
    from rich.table import Table

    from cluster.jobs import listed

    table = Table(box=box.SIMPLE, show_edge=False)
    for column in ("job", "run", "status", "began", "plan", "code", "checkpoint"):
        table.add_column(column, overflow="fold")
    for job in listed(address):
        words = job.metadata or {}
        began = time.localtime((job.start_time or 0) / 1000)
        table.add_row(
            str(job.submission_id or job.job_id),
            words.get("run", ""),
            str(job.status).lower(),
            time.strftime("%Y-%m-%d %H:%M", began),
            *(words.get(key, "") for key in ("plan", "code", "checkpoint")),
        )
    console.print(table)


def logs(job: Identifier, address: Dashboard = "auto") -> None:
    """Print the log of a job, and follow it to its end; Ctrl-C leaves the job running."""
    from cluster.jobs import follow, found

    status = follow(found(address, job), lambda line: console.out(line, highlight=False))
    if status != "SUCCEEDED":
        raise ClusterError(f"the job ended as {status.lower()}")


def stop(job: Identifier, address: Dashboard = "auto") -> None:
    """Stop a job and wait until it has ended; its run keeps its checkpoints."""
    from cluster.jobs import found
    from cluster.jobs import stop as stop_job

    running = stop_job(found(address, job))
    say(f"stopped {job}" if running else f"{job} had ended before")
