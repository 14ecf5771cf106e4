"""``raymoe scale``: another plan for a living run."""

from pathlib import Path
from typing import Annotated

import typer

from moe.errors import ClusterError
from pipelines.commands.run_arguments import Address, RunName
from pipelines.screen.terminal import console, say

EXAMPLE = "raymoe scale demo --replicas 2 --address 10.0.0.1:6379"

Replicas = Annotated[
    int | None,
    typer.Option(help="Replicas of the pipeline; ranks that stay keep their share of the model."),
]
PlanFile = Annotated[Path | None, typer.Option(help="Plan file of the whole run, all replicas.")]
Nodes = Annotated[
    int | None,
    typer.Option(help="Nodes to cut the stages anew over, in gangs as wide as before."),
]


def scale(
    name: RunName,
    replicas: Replicas = None,
    plan: PlanFile = None,
    nodes: Nodes = None,
    seconds: Annotated[
        float,
        typer.Option(
            help="Seconds to wait for the change; it begins after the present step.", min=0.0
        ),
    ] = 600.0,
    address: Address = "auto",
    stands: Annotated[
        bool,
        typer.Option(
            "--stands", help="Say, as JSON, how the run stands afterwards; or only that, alone."
        ),
    ] = False,
) -> None:
    """Change the plan of a running run: actors that stay keep their processes and go on."""
    from cluster.session import session
    from moe.planning.plan.file import load_plan
    from pipelines.training.board import ask
    from pipelines.training.rescaled import NotRescaled
    from pipelines.training.standing import standing_of
    from pipelines.training.wishes import Wish

    asked = not stands or any(each is not None for each in (replicas, plan, nodes))
    wish = Wish(replicas, None if plan is None else load_plan(plan), nodes) if asked else None
    with session(address):
        if wish is not None:
            told = ask(name, wish, seconds)
            if isinstance(told, NotRescaled):
                raise ClusterError(told.line)
            say(told.line)
        if stands:
            console.out(standing_of(name).line, highlight=False)
