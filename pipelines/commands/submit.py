"""``raymoe submit``: a run as a Ray job."""

from typing import Annotated

import typer

from moe.errors import ClusterError
from pipelines.commands.run_arguments import Resume, RunFile, Set
from pipelines.screen.terminal import console, say

EXAMPLE = "raymoe submit run.toml --address http://10.0.0.1:8265"


def submit(
    run: RunFile,
    set_: Set = None,
    address: Annotated[
        str,
        typer.Option(
            help="Dashboard of the cluster as http://HOST:8265, with the path of a proxy if it has "
            "one; auto takes RAY_ADDRESS or the cluster on this machine."
        ),
    ] = "auto",
    python: Annotated[str, typer.Option(help="Python command on the cluster.")] = "python",
    resume: Resume = False,
) -> None:
    """Send a run to a Ray cluster as a job and follow the log of the job."""
    from moe.config.run import load_run
    from pipelines.deploying.submit import Target, submit_run

    config = load_run(run, set_ or ())
    where = Target(address, python, resume)
    try:
        status = submit_run(config, where, lambda line: console.out(line, highlight=False))
    except KeyboardInterrupt:
        say(
            f"the log is not followed any more; a job that was submitted goes on: `raymoe stop "
            f"{config.name}` ends it, the same `raymoe submit` follows it again"
        )
        raise
    if status != "SUCCEEDED":
        raise ClusterError(f"the job ended as {status.lower()}; --resume continues its run")
    say(f"the job {status.lower()}")
