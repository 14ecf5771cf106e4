"""``raymoe kube apply|status|watch|logs|token|dashboard|delete|doctor``."""

import time
from pathlib import Path
from typing import Annotated

import typer

from moe.errors import ClusterError
from pipelines.commands.kube_arguments import (
    DASHBOARD_PORT,
    Context,
    Name,
    Namespace,
    Seconds,
    Service,
    api_server,
    dashboard_of,
    deployment_of,
    object_called,
    pods_of,
    space_of,
    tables_of,
)
from pipelines.screen.terminal import caution, console, say

APPLY_EXAMPLE = "raymoe kube apply job.yaml"
STATUS_EXAMPLE = "raymoe kube status my-run --namespace raymoe"
WATCH_EXAMPLE = "raymoe kube watch my-run"
LOGS_EXAMPLE = "raymoe kube logs my-run --follow"
TOKEN_EXAMPLE = "export RAY_AUTH_TOKEN=$(raymoe kube token my-run)"
DASHBOARD_EXAMPLE = "raymoe kube dashboard my-run"
DELETE_EXAMPLE = "raymoe kube delete my-run"
DOCTOR_EXAMPLE = "raymoe kube doctor --deployment gpu.toml"

WATCH_SECONDS = 2.0


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
    """Show where a run or a server stands, and in a sentence why it waits or failed.

    With it come the last line of the run's log, conditions, pods and events.
    """
    from cluster.kube.observed import last_line
    from pipelines.screen.kube_table import page

    with object_called(name, namespace, context, service) as it:
        found = it.observed()
        console.print(page(found, last_line(it.api, it.namespace, found)))


def watch(
    name: Name, namespace: Namespace = None, context: Context = None, service: Service = None
) -> None:
    """Show what `status` shows, renewed every two seconds, until the run has ended or Ctrl-C."""
    from rich.live import Live

    from cluster.kube.observed import last_line
    from cluster.kube.standing import standing
    from pipelines.screen.kube_table import page

    with (
        object_called(name, namespace, context, service) as it,
        Live(console=console, auto_refresh=False) as live,
    ):
        while True:
            found = it.observed()
            said = last_line(it.api, it.namespace, found)
            live.update(page(found, said), refresh=True)
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
    with object_called(name, namespace, context, service) as it, dashboard_of(it, port) as there:
        say(f"dashboard of {name} at {there.address}; its token:")
        console.out(there.token, highlight=False)
        tell = f"raymoe kube token {name} -n {it.namespace}"
        say(f"for commands: RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$({tell})")
        while True:
            time.sleep(3600)


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
        list[Path] | None,
        typer.Option(help="Deployment file, TOML; as `render`.", show_default="defaults, --set"),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a key of the deployment file: section.key=value."),
    ] = None,
    context: Context = None,
    objects: Annotated[
        list[Path] | None,
        typer.Option(
            help="File of `raymoe kube render`: do quotas leave what its pods ask for? Repeatable."
        ),
    ] = None,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe",
            help="Start a small pod in each place of the deployment, which pulls the image and "
            "resolves names, and delete it.",
        ),
    ] = False,
    seconds: Annotated[
        float, typer.Option(help="Seconds that the pods of --probe may take.", min=1.0)
    ] = 300.0,
) -> None:
    """Check that a cluster has what objects of a deployment file need, each with its remedy.

    KubeRay, its version and how it was started, rights, the claim and its storage class, secrets
    and the registry that they are for, the queue, nodes with the labels, DNS, quotas.
    It starts nothing without --probe.
    """
    from cluster.kube.doctor import examine
    from pipelines.screen.kube_table import findings

    options = deployment_of(deployment, set_ or ())
    tables = [table for each in objects or () for table in tables_of(each)]
    with api_server(context) as api:
        found = list(examine(api, options, tables, seconds if probe else None))
    console.print(findings(found))
    if wrong := [each for each in found if each.good is False]:
        raise ClusterError(
            f"{len(wrong)} of {len(found)} checks failed; the first: {wrong[0].what}: "
            f"{wrong[0].found}; {wrong[0].remedy}"
        )
    for each in found:
        if each.good is None:
            caution(f"{each.what}: {each.found}; {each.remedy}")
