"""``raymoe scale``: another plan for a living run."""

from pathlib import Path
from typing import Annotated

import typer

from moe.errors import ClusterError
from pipelines.commands.run_arguments import Address, RunName
from pipelines.screen.terminal import say

EXAMPLE = "raymoe scale demo --replicas 2 --address 10.0.0.1:6379"


def scale(
    name: RunName,
    replicas: Annotated[
        int | None,
        typer.Option(
            help="Replicas of the pipeline; ranks that stay keep their share of the model."
        ),
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(help="Plan file of the whole run, all replicas.")
    ] = None,
    nodes: Annotated[
        int | None,
        typer.Option(help="Nodes to cut the stages anew over, in gangs as wide as before."),
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(
            help="Seconds to wait for the change; it begins after the present step.", min=0.0
        ),
    ] = 600.0,
    address: Address = "auto",
) -> None:
    """Change the plan of a running run: actors that stay keep their processes and go on."""
    from cluster.session import session
    from moe.planning.plan.file import load_plan
    from pipelines.training.board import ask
    from pipelines.training.rescaled import NotRescaled
    from pipelines.training.wishes import Wish

    wish = Wish(replicas, None if plan is None else load_plan(plan), nodes)
    with session(address):
        told = ask(name, wish, seconds)
    if isinstance(told, NotRescaled):
        raise ClusterError(told.line)
    say(told.line)
