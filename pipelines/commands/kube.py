"""``raymoe kube render``: a run as objects for Kubernetes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moe.errors import ConfigError
from pipelines.commands.kube_arguments import deployment_of
from pipelines.commands.run_arguments import RunFile
from pipelines.screen.terminal import console, say

if TYPE_CHECKING:
    from cluster.kuberay.deployment import Deployment
    from moe.planning.devices.inventory import Inventory

EXAMPLE = "raymoe kube render run.toml --model moe --plan plan.toml --deployment gpu.toml"


def render(
    run: RunFile,
    deployment: Annotated[
        list[Path] | None,
        typer.Option(
            help="Deployment file, TOML. Repeatable: each changes the keys that it gives, as the "
            "files of manifests/components do.",
            show_default="defaults, --image and --claim",
        ),
    ] = None,
    service: Annotated[
        bool,
        typer.Option("--service", help="A RayService of the run's model, in place of a RayJob."),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model directory here, its config.json, or a preset; no weights are read.",
            show_default="model.path of the run, if it is here",
        ),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(help="Plan file, TOML.", show_default="plan.path of the run, if it is here"),
    ] = None,
    inventory: Annotated[
        Path | None,
        typer.Option(help="Inventory file: makes the plan for these devices, of the run's shape."),
    ] = None,
    nodes: Annotated[
        Path | None,
        typer.Option(
            help="The same for the nodes in this output of `kubectl get nodes -o json`, whose "
            "labels also select the nodes of each kind of GPU, unless workers.node_selectors does."
        ),
    ] = None,
    image: Annotated[
        str | None, typer.Option(help="Sets image.name: the image of every pod, pinned.")
    ] = None,
    claim: Annotated[
        str | None, typer.Option(help="Sets storage.claim: the volume claim that every pod mounts.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the objects.", show_default="the name of the run"),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a key of the deployment file: section.key=value."),
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="File to write.", show_default="print the objects")
    ] = None,
) -> None:
    """Render a RayJob that trains a run, or a RayService, with a ConfigMap of run file and plan.

    The run, the plan and the sizes of the model say how many pods there are and how large.
    The deployment file gives the rest: image, storage, node selectors, secrets, queue.
    Only the image and the volume claim have no default.
    manifests/deployments has examples; docs/guide/deployment.md explains every key.
    """
    from cluster.kuberay.writing import dump
    from moe.config.run import load_run
    from pipelines.deploying.render import serving_objects, training_objects
    from pipelines.deploying.sources import Sources
    from pipelines.planning.output import output

    short = {"image.name": image, "storage.claim": claim}
    given = [f"{key}={value}" for key, value in short.items() if value is not None]
    options = deployment_of(deployment, [*given, *(set_ or ())])
    if nodes is not None and not options.workers.node_selectors:
        options = _selecting(options, nodes)
    file = None if to is None else output("--to", to)
    sources = Sources(model, plan, _devices(inventory, nodes))
    objects = (serving_objects if service else training_objects)(
        load_run(run), options, sources, name
    )
    text = dump(objects)
    if file is None:
        console.out(text, highlight=False)
    else:
        file.path.write_text(text, encoding="utf-8")
        say(file.told)


def _selecting(options: "Deployment", nodes: Path) -> "Deployment":
    """Return the deployment with the labels by which nodes of each kind of GPU are known."""
    from cluster.kubernetes_nodes import load_nodes, node_selectors

    workers = options.workers.model_copy(
        update={"node_selectors": node_selectors(load_nodes(nodes))}
    )
    return options.model_copy(update={"workers": workers})


def _devices(inventory: Path | None, nodes: Path | None) -> "Inventory | None":
    """Return the devices for which a plan is made; None where none are given."""
    from cluster.kubernetes_nodes import inventory_of_nodes, load_nodes
    from moe.planning.devices.inventory_file import load_inventory

    if inventory is not None and nodes is not None:
        raise ConfigError("--inventory and --nodes both give the devices; give one of them")
    if inventory is not None:
        return load_inventory(inventory)
    return None if nodes is None else inventory_of_nodes(load_nodes(nodes))
