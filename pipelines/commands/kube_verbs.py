"""``raymoe kube apply|status|watch|logs|token|dashboard|submit|delete|doctor``."""

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from cluster.job_words import Code
from moe.errors import ClusterError
from pipelines.commands.kube_arguments import (
    Context,
    Name,
    Namespace,
    Seconds,
    Service,
    api_server,
    object_called,
    pods_of,
    space_of,
    tables_of,
)
from pipelines.commands.run_arguments import IfSaved, RunFile, Set, resuming
from pipelines.commands.submit import CODE_HELP, Detach, send
from pipelines.screen.terminal import caution, console, say

APPLY_EXAMPLE = "raymoe kube apply job.yaml"
STATUS_EXAMPLE = "raymoe kube status my-run --namespace raymoe"
WATCH_EXAMPLE = "raymoe kube watch my-run"
LOGS_EXAMPLE = "raymoe kube logs my-run --follow"
TOKEN_EXAMPLE = "export RAY_AUTH_TOKEN=$(raymoe kube token my-run)"
DASHBOARD_EXAMPLE = "raymoe kube dashboard my-run"
SUBMIT_EXAMPLE = "raymoe kube submit run.toml --on my-cluster"
DELETE_EXAMPLE = "raymoe kube delete my-run"
DOCTOR_EXAMPLE = "raymoe kube doctor --deployment gpu.toml"

WATCH_SECONDS = 2.0
DASHBOARD_PORT = 8265


def apply(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILES", help="Files that `raymoe kube render` wrote.")
    ],
    context: Context = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    seconds: Seconds = 300.0,
) -> None:
    """Make or change objects: all of them, or none where one stands in the way.

    Server-side apply under the name raymoe, with strict validation. Applied twice, nothing changes.
    """
    from cluster.kube import operate

    tables = [table for file in files for table in tables_of(file)]
    with api_server(context) as api:
        if dry_run:
            for _, each in operate.changes_of(api, tables):
                say(f"would be: {each}")
        else:
            operate.apply(api, tables, say, seconds)


def status(
    name: Name, namespace: Namespace = None, context: Context = None, service: Service = None
) -> None:
    """Show where a run or a server stands, its pods, and in a sentence why it waits or failed."""
    from pipelines.screen.kube_table import page

    with object_called(name, namespace, context, service) as it:
        console.print(page(it.observed()))


def watch(
    name: Name, namespace: Namespace = None, context: Context = None, service: Service = None
) -> None:
    """Show what `status` shows, renewed every two seconds, until the run has ended or Ctrl-C."""
    from rich.live import Live

    from cluster.kube.standing import standing
    from pipelines.screen.kube_table import page

    with (
        object_called(name, namespace, context, service) as it,
        Live(console=console, auto_refresh=False) as live,
    ):
        while True:
            found = it.observed()
            live.update(page(found), refresh=True)
            where = standing(found)
            if where.ended:
                break
            time.sleep(WATCH_SECONDS)
    if where.phase == "failed":
        raise ClusterError(f"{it.kind.name}/{name} failed: {where.why}")


def logs(
    name: Name,
    namespace: Namespace = None,
    context: Context = None,
    service: Service = None,
    role: Annotated[
        str | None,
        typer.Option(
            help="Role of the pods: submitter (its log is the run's), head, driver or rank.",
            show_default="submitter of a job, head of a service",
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print new lines until the pod ends.")
    ] = False,
    tail: Annotated[int | None, typer.Option(help="The last so many lines.", min=0)] = None,
) -> None:
    """Print the log of the pods of one role; lines of several pods begin with the pod's name."""
    from cluster.kube.kinds import RAYJOB

    with object_called(name, namespace, context, service) as it:
        wished = role or ("submitter" if it.kind == RAYJOB else "head")
        pods = pods_of(it.observed(), wished)
        if follow and len(pods) > 1:
            raise ClusterError(
                f"{len(pods)} pods are of role {wished}; --follow follows one: choose another role"
            )
        query = {"follow": "true"} if follow else {}
        query |= {} if tail is None else {"tailLines": str(tail)}
        for pod in pods:
            for line in it.api.log(it.namespace, pod, query):
                console.out(f"{pod}: {line}" if len(pods) > 1 else line, highlight=False)


def token(
    name: Name, namespace: Namespace = None, context: Context = None, service: Service = None
) -> None:
    """Print the token of Ray's API, for RAY_AUTH_TOKEN; set RAY_AUTH_MODE=token beside it."""
    from cluster.kube import operate

    with object_called(name, namespace, context, service) as it:
        console.out(operate.token(it.api, it.namespace, it.observed()), highlight=False)


def dashboard(
    name: Name,
    namespace: Namespace = None,
    context: Context = None,
    service: Service = None,
    port: Annotated[
        int, typer.Option(help="Port of this machine; 0 takes a free one.")
    ] = DASHBOARD_PORT,
) -> None:
    """Bring the Ray dashboard to this machine until Ctrl-C, and print its token.

    `raymoe submit --address http://127.0.0.1:8265` and `raymoe jobs` reach the cluster through it.
    """
    from cluster.kube import operate
    from cluster.kube.forwarding import forwarded

    with object_called(name, namespace, context, service) as it:
        found = it.observed()
        secret = operate.token(it.api, it.namespace, found)
        head = pods_of(found, "head")[0]
        with forwarded(it.api, it.namespace, head, DASHBOARD_PORT, port) as local:
            say(f"dashboard of {name} at http://127.0.0.1:{local}; its token:")
            console.out(secret, highlight=False)
            tell = f"raymoe kube token {name} -n {it.namespace}"
            say(f"for commands: RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$({tell})")
            while True:
                time.sleep(3600)


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

    Paths of the run file are those in the pods.
    """
    from cluster.kube import operate
    from cluster.kube.forwarding import forwarded
    from moe.config.run import load_run

    config = load_run(run, set_ or ())
    with object_called(on, namespace, context, service) as it:
        found = it.observed()
        secret = operate.token(it.api, it.namespace, found)
        head = pods_of(found, "head")[0]
        # Ray reads these when it is imported, which is below.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secret}
        from pipelines.deploying.submit import Target

        with forwarded(it.api, it.namespace, head, DASHBOARD_PORT) as port:
            how = resuming(False, resume_if_saved)
            target = Target(f"http://127.0.0.1:{port}", "python", how, code)
            there = f" --address 127.0.0.1:{DASHBOARD_PORT}"
            send(config, target, detach, there, f"raymoe kube dashboard {on} -n {it.namespace}")


def delete(
    name: Name,
    namespace: Namespace = None,
    context: Context = None,
    service: Service = None,
    seconds: Seconds = 300.0,
) -> None:
    """Delete a run or a server with its files, and wait until its pods have ended.

    Checkpoints stay on the volume. With --job or --service it also removes the files of an object
    that is gone already.
    """
    from cluster.kube import operate
    from cluster.kube.kinds import RAYJOB, RAYSERVICE
    from cluster.kube.observed import kind_there

    with api_server(context) as api:
        space = space_of(namespace, context)
        said = None if service is None else RAYSERVICE if service else RAYJOB
        kind = said or kind_there(api, space, name)
        operate.delete(api, kind, space, name, say, seconds)


def doctor(
    deployment: Annotated[
        Path | None,
        typer.Option(help="Deployment file, TOML.", show_default="defaults, and --set"),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a key of the deployment file: section.key=value."),
    ] = None,
    context: Context = None,
) -> None:
    """Check that a cluster has what objects of a deployment file need, each with its remedy.

    KubeRay and its version, rights, the claim, secrets, nodes with the labels, quotas.
    It starts nothing. Whether nodes can pull the image shows when a pod starts: see `status`.
    """
    from cluster.kube.doctor import examine
    from cluster.kuberay.deployment import load_deployment
    from pipelines.screen.kube_table import findings

    options = load_deployment(deployment, set_ or ())
    with api_server(context) as api:
        found = list(examine(api, options))
    console.print(findings(found))
    if wrong := [each for each in found if each.good is False]:
        raise ClusterError(
            f"{len(wrong)} of {len(found)} checks failed; the first: {wrong[0].what}: "
            f"{wrong[0].found}; {wrong[0].remedy}"
        )
    for each in found:
        if each.good is None:
            caution(f"{each.what}: {each.found}; {each.remedy}")
