"""``raymoe kube``: a plan as objects for Kubernetes."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.screen.terminal import console, say

EXAMPLE = "raymoe kube render plan.toml --model moe --run run.toml --deployment gpu.toml"


def render(
    plan: Annotated[Path, typer.Argument(help="Plan file, TOML.")],
    model: Annotated[
        str, typer.Option(help="Model directory here, of which config.json is read, or a preset.")
    ],
    deployment: Annotated[
        Path | None,
        typer.Option(help="Deployment file, TOML.", show_default="defaults, --image and --claim"),
    ] = None,
    image: Annotated[
        str | None, typer.Option(help="Sets image.name: the image of every pod, pinned.")
    ] = None,
    claim: Annotated[
        str | None, typer.Option(help="Sets storage.claim: the volume claim that every pod mounts.")
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(help="Run file, TOML, whose RayJob to render.", show_default="a RayService"),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the object.", show_default="the name of the run"),
    ] = None,
    sequence_length: Annotated[
        int, typer.Option(help="Tokens of a sequence, as in the token shards.")
    ] = 512,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a key of the deployment file: section.key=value."),
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="File to write.", show_default="print the object")
    ] = None,
) -> None:
    """Render a RayJob that trains a run under a plan; without --run, a RayService.

    The plan, the model and the run file give the sizes of the pods.
    The deployment file gives the rest: image, storage, node selectors, secrets.
    Only the image and the volume claim have no default.
    manifests/deployments has examples; docs/guide/deployment.md explains every key.
    """
    from cluster.kuberay.deployment import load_deployment
    from moe.config.run import load_run
    from pipelines.deploying.render import render as rendered

    short = {"image.name": image, "storage.claim": claim}
    given = [f"{key}={value}" for key, value in short.items() if value is not None]
    found = load_deployment(deployment, [*given, *(set_ or ())])
    trained = None if run is None else load_run(run)
    text = rendered(plan, model, sequence_length, found, name, trained)
    if to is None:
        console.out(text, highlight=False)
    else:
        to.write_text(text, encoding="utf-8")
        say(f"wrote {to}")
