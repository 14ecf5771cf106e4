"""What the verbs of ``raymoe kube`` share: arguments, and what they ask the API server first."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moe.errors import ClusterError, ConfigError

if TYPE_CHECKING:
    from cluster.kube.api import Api
    from cluster.kube.kinds import Kind
    from cluster.kube.observed import Observed
    from cluster.kuberay.deployment import Deployment

DASHBOARD_PORT = 8265
"""The port of Ray's dashboard in the head's pod."""

Name = Annotated[str, typer.Argument(help="Name of the RayJob or RayService.")]
Namespace = Annotated[
    str | None,
    typer.Option(
        "--namespace",
        "-n",
        help="Namespace of the objects.",
        show_default="that of the context, or default",
    ),
]
Context = Annotated[
    str | None,
    typer.Option(help="Context of the kubeconfig.", show_default="the current context"),
]
Service = Annotated[
    bool | None,
    typer.Option(
        "--service/--job",
        help="Whether the RayService or the RayJob is meant, where both have the name.",
    ),
]
Seconds = Annotated[
    float, typer.Option(help="Seconds to wait until deleted objects are gone.", min=0.0)
]


@contextmanager
def api_server(context: str | None) -> "Iterator[Api]":
    """Yield the API server; what it refuses is an error that says what is missing."""
    from cluster.kube.api import Api, Refusal, in_words
    from cluster.kube.connection import connect

    try:
        yield Api(connect(context))
    except Refusal as refusal:
        raise in_words(refusal) from refusal


@dataclass(frozen=True, slots=True)
class Called:
    """An object on an API server."""

    api: "Api"
    kind: "Kind"
    namespace: str
    name: str

    def observed(self) -> "Observed":
        """Return everything that is there of it now."""
        from cluster.kube.observed import observe

        return observe(self.api, self.kind, self.namespace, self.name)


@contextmanager
def object_called(
    name: str, namespace: str | None, context: str | None, service: bool | None
) -> "Iterator[Called]":
    """Yield the RayJob or RayService of a name, in the namespace given or that of the context."""
    from cluster.kube.observed import kind_there

    with api_server(context) as api:
        space = space_of(namespace, context)
        yield Called(api, kind_there(api, space, name, service), space, name)


@dataclass(frozen=True, slots=True)
class Dashboard:
    """A Ray dashboard on this machine, and its token."""

    address: str
    token: str


@contextmanager
def dashboard_of(called: Called, port: int = 0) -> "Iterator[Dashboard]":
    """Bring the dashboard of an object's Ray cluster to a port of this machine; 0: a free one."""
    from cluster.kube import operate
    from cluster.kube.forwarding import forwarded

    found = called.observed()
    token = operate.token(called.api, called.namespace, found)
    head = pods_of(found, "head")[0]
    with forwarded(called.api, called.namespace, head, DASHBOARD_PORT, port) as local:
        yield Dashboard(f"http://127.0.0.1:{local}", token)


@contextmanager
def jobs_of(called: Called) -> "Iterator[Dashboard]":
    """Do the same for jobs from this process, which must not have imported Ray before."""
    with dashboard_of(called) as there:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": there.token}
        yield there


def space_of(namespace: str | None, context: str | None) -> str:
    """Return the namespace that was given, or that of the context."""
    from cluster.kube.connection import namespace_of

    return namespace or namespace_of(context)


def pods_of(found: "Observed", role: str) -> list[str]:
    """Return the names of the pods of a role, at least one; ClusterError has the roles."""
    pods = [str(pod["metadata"]["name"]) for pod in found.of_role(role)]
    if not pods:
        raise ClusterError(
            f"{found.name} has no pod of role {role} now, but of "
            f"{', '.join(found.roles) or 'none'}; see `raymoe kube status {found.name}`"
        )
    return pods


def deployment_of(files: Sequence[Path] | None, overrides: Sequence[str]) -> "Deployment":
    """Return the deployment of files, each over those before it, and of ``--set``."""
    from cluster.kuberay.deployment import load_deployment

    first = files[0] if files else None
    return load_deployment(first, overrides, files[1:] if files else ())


def tables_of(file: Path) -> list[dict[str, Any]]:
    """Return the objects of a YAML file."""
    import yaml

    try:
        tables = list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} cannot be read as YAML: {error}") from error
    wrong = [each for each in tables if not isinstance(each, dict) or "metadata" not in each]
    if wrong or not tables:
        raise ConfigError(f"{file} holds no objects; give a file of `raymoe kube render`")
    return tables
