"""``raymoe submit``: a run as a Ray job."""

from typing import TYPE_CHECKING, Annotated

import typer

from cluster.job_words import Code
from moe.errors import ClusterError
from pipelines.commands.run_arguments import IfSaved, Resume, RunFile, Set, resuming
from pipelines.screen.terminal import console, say

if TYPE_CHECKING:
    from moe.config.run import RunConfig
    from pipelines.deploying.submit import Target

EXAMPLE = "raymoe submit run.toml --address http://10.0.0.1:8265"

Dashboard = Annotated[
    str,
    typer.Option(
        "--address",
        help="Dashboard of the cluster as HOST:8265, with the path of a proxy if it has one; auto "
        "takes RAY_ADDRESS or the cluster on this machine.",
    ),
]
CODE_HELP = "Code that runs: tree sends this source tree along, image takes the cluster's."
Detach = Annotated[bool, typer.Option("--detach", help="Do not follow the log of the job.")]


def submit(
    run: RunFile,
    set_: Set = None,
    address: Dashboard = "auto",
    python: Annotated[str, typer.Option(help="Python command on the cluster.")] = "python",
    resume: Resume = False,
    resume_if_saved: IfSaved = False,
    code: Annotated[
        Code | None,
        typer.Option(help=CODE_HELP, show_default="tree, if raymoe runs from one"),
    ] = None,
    detach: Detach = False,
) -> None:
    """Send a run to a Ray cluster as a job and follow the log of the job."""
    from moe.config.run import load_run
    from pipelines.deploying.submit import Target

    config = load_run(run, set_ or ())
    there = "" if address == "auto" else f" --address {address}"
    send(config, Target(address, python, resuming(resume, resume_if_saved), code), detach, there)


def send(
    config: "RunConfig", target: "Target", detach: bool, there: str, meanwhile: str = ""
) -> None:
    """Submit a run and follow its log.

    ``there`` is the option by which other commands reach the job, ``meanwhile`` a command that must
    run beside them.
    """
    from cluster.jobs import follow
    from pipelines.deploying.submit import send_run

    def show(line: str) -> None:
        console.out(line, highlight=False)

    job = send_run(config, target, show)
    beside = f", while `{meanwhile}` runs" if meanwhile else ""
    again = f"`raymoe jobs logs {job.identifier}{there}`"
    if detach:
        say(f"it runs on; {again} follows it{beside}")
        return
    try:
        status = follow(job, show)
    except KeyboardInterrupt:
        stop = f"`raymoe jobs stop {job.identifier}{there}`"
        say(f"the job goes on: {again} follows it again, {stop} ends it{beside}")
        raise
    if status != "SUCCEEDED":
        raise ClusterError(
            f"the job ended as {status.lower()}; --resume-if-saved continues its run"
        )
    say(f"the job {status.lower()}")
