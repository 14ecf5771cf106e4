"""``raymoe submit``: a run as a Ray job."""

from typing import Annotated, Literal

import typer

from cluster.job_words import Code
from moe.errors import ClusterError, ConfigError
from pipelines.commands.run_arguments import Resume, RunFile, Set
from pipelines.screen.terminal import console, say

EXAMPLE = "raymoe submit run.toml --address http://10.0.0.1:8265"

Dashboard = Annotated[
    str,
    typer.Option(
        "--address",
        help="Dashboard of the cluster as HOST:8265, with the path of a proxy if it has one; auto "
        "takes RAY_ADDRESS or the cluster on this machine.",
    ),
]


def submit(
    run: RunFile,
    set_: Set = None,
    address: Dashboard = "auto",
    python: Annotated[str, typer.Option(help="Python command on the cluster.")] = "python",
    resume: Resume = False,
    resume_if_saved: Annotated[
        bool,
        typer.Option(
            "--resume-if-saved",
            help="As --resume, but begin if there is nothing to resume: the same command again.",
        ),
    ] = False,
    code: Annotated[
        Code | None,
        typer.Option(
            help="Code that runs: tree sends this source tree along, image takes the cluster's.",
            show_default="tree, if raymoe runs from one",
        ),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Do not follow the log of the job.")
    ] = False,
) -> None:
    """Send a run to a Ray cluster as a job and follow the log of the job."""
    from cluster.jobs import follow
    from moe.config.run import load_run
    from pipelines.deploying.submit import Target, send_run

    if resume and resume_if_saved:
        raise ConfigError("--resume and --resume-if-saved contradict each other; give one of them")
    rest: Literal["if-saved", "never"] = "if-saved" if resume_if_saved else "never"
    config = load_run(run, set_ or ())

    def show(line: str) -> None:
        console.out(line, highlight=False)

    job = send_run(config, Target(address, python, "always" if resume else rest, code), show)
    there = "" if address == "auto" else f" --address {address}"
    again = f"`raymoe jobs logs {job.identifier}{there}`"
    if detach:
        say(f"it runs on; {again} follows it")
        return
    try:
        status = follow(job, show)
    except KeyboardInterrupt:
        stop = f"`raymoe jobs stop {job.identifier}{there}`"
        say(f"the job goes on: {again} follows it again, {stop} ends it")
        raise
    if status != "SUCCEEDED":
        raise ClusterError(
            f"the job ended as {status.lower()}; --resume-if-saved continues its run"
        )
    say(f"the job {status.lower()}")
