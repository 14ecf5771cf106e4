"""``raymoe kube submit|scale``: runs on a Ray cluster on Kubernetes, reached through its head."""

import tomllib
from typing import Annotated

import typer

from cluster.job_words import Code
from moe.errors import ClusterError
from pipelines.commands.kube_arguments import (
    DASHBOARD_PORT,
    Called,
    Context,
    Namespace,
    Service,
    jobs_of,
    object_called,
)
from pipelines.commands.run_arguments import IfSaved, RunFile, Set, resuming
from pipelines.commands.scale import Nodes, PlanFile, Replicas
from pipelines.commands.submit import CODE_HELP, Detach, send
from pipelines.screen.terminal import say

SUBMIT_EXAMPLE = "raymoe kube submit run.toml --on my-cluster"
SCALE_EXAMPLE = "raymoe kube scale my-run --replicas 4 --namespace raymoe"


def submit(
    run: RunFile,
    on: Annotated[
        str, typer.Option(help="Name of the RayJob or RayService whose cluster runs it.")
    ],
    namespace: Namespace = None,
    context: Context = None,
    service: Service = None,
    set_: Set = None,
    resume_if_saved: IfSaved = False,
    code: Annotated[Code, typer.Option(help=CODE_HELP)] = "image",
    detach: Detach = False,
) -> None:
    """Send a run as a job to a Ray cluster on Kubernetes, through the API server, with its token.

    Paths of the run file are those in the pods. Its driver runs in the driver pod, unless
    cluster.driver_labels says where.
    """
    from moe.config.run import load_run
    from pipelines.deploying.run_in_pods import with_driver_pod

    config = with_driver_pod(load_run(run, set_ or ()))
    with object_called(on, namespace, context, service) as it, jobs_of(it) as dashboard:
        from pipelines.deploying.submit import Target

        target = Target(dashboard.address, "python", resuming(False, resume_if_saved), code)
        there = f" --address 127.0.0.1:{DASHBOARD_PORT}"
        send(config, target, detach, there, f"raymoe kube dashboard {on} -n {it.namespace}")


def scale(
    name: Annotated[str, typer.Argument(help="Name of the RayJob.")],
    replicas: Replicas = None,
    plan: PlanFile = None,
    nodes: Nodes = None,
    namespace: Namespace = None,
    context: Context = None,
    run: Annotated[
        str | None,
        typer.Option(help="Name of the run.", show_default="that of the RayJob's run file"),
    ] = None,
    seconds: Annotated[
        float, typer.Option(help="Seconds until it gives up; new nodes take minutes.", min=1.0)
    ] = 1800.0,
) -> None:
    """Resize a living run and its groups of pods together, so that neither waits for the other.

    To grow, pods come first and then ranks; to shrink, ranks go first and then the pods without
    any. Repeated, it goes on where it was cut off, or does nothing.
    """
    from cluster.kube.scale_wish import wish_of

    wish = wish_of(replicas, plan, nodes)
    with object_called(name, namespace, context, service=False) as it, jobs_of(it) as dashboard:
        from pipelines.deploying.run_there import RunThere
        from pipelines.deploying.scaling import Scaling

        there = RunThere(run or run_of(it), dashboard.address)
        Scaling(it.api, it.namespace, it.name, there, say).carry_out(wish, seconds)


def run_of(called: Called) -> str:
    """Return the name of the run that a RayJob trains, from its run file."""
    from cluster.kube.kinds import CONFIG_MAP
    from cluster.kuberay.objects import files_name
    from cluster.kuberay.scheduling import TRAINING
    from cluster.kuberay.work import RUN_FILE

    files = files_name(called.name, TRAINING)
    table = called.api.get(CONFIG_MAP, called.namespace, files)
    text = ((table or {}).get("data") or {}).get(RUN_FILE)
    if text is None:
        raise ClusterError(
            f"ConfigMap {files} with the run file is not there; say by --run what the run is called"
        )
    return str(tomllib.loads(text)["name"])
