"""Rights, and the objects that pods name: Secrets, claims, accounts."""

import base64
import binascii
import json
from collections.abc import Iterator
from typing import Any

from cluster.kube.api import Api
from cluster.kube.checks.finding import Finding
from cluster.kube.kinds import ACCOUNT, CLAIM, SECRET
from cluster.kuberay.deployment import Deployment

RIGHTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("ray.io", "rayjobs", ("get", "list", "create", "patch", "delete")),
    ("ray.io", "rayservices", ("get", "list", "create", "patch", "delete")),
    ("ray.io", "rayclusters", ("get", "list", "patch")),
    ("", "configmaps", ("get", "list", "create", "patch", "delete")),
    ("policy", "poddisruptionbudgets", ("get", "list", "create", "patch", "delete")),
    ("", "pods", ("get", "list")),
    ("", "events", ("list",)),
    ("", "pods/log", ("get",)),
    ("", "pods/portforward", ("create",)),
    ("", "secrets", ("get",)),
)
"""What the verbs of ``raymoe kube`` ask of the API server, as manifests/base/rights.yaml grants it.
"""
PROBE_RIGHTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("", "pods", ("create", "patch", "delete")),
)
"""What ``raymoe kube doctor --probe`` asks for beside these."""

_DOCKER = "kubernetes.io/dockerconfigjson"
_HUB = "docker.io"

Table = dict[str, Any]


def rights(api: Api, deployment: Deployment, probing: bool = False) -> Iterator[Finding]:
    """Yield which rights are lacking for the verbs of ``raymoe kube``."""
    lacking = [
        f"{verb} {resource}"
        for group, resource, verbs in (*RIGHTS, *(PROBE_RIGHTS if probing else ()))
        for verb in verbs
        if not api.may(verb, group, resource, deployment.namespace)
    ]
    found = f"lacking: {', '.join(lacking)}" if lacking else "all that raymoe asks for"
    remedy = f"bind the Role of manifests/base/rights.yaml in namespace {deployment.namespace}"
    yield Finding("rights", not lacking, found, remedy)


def names(api: Api, deployment: Deployment) -> Iterator[Finding]:
    """Yield whether the objects that pods name are there."""
    secrets = [
        *deployment.pods.environment_secrets,
        *(each.secret for each in deployment.volumes if each.secret),
        deployment.security.token_secret,
        deployment.recovery.redis_secret,
        deployment.monitoring.history_secret,
    ]
    wished = [(SECRET, name) for name in dict.fromkeys(secrets) if name is not None]
    wished += [(CLAIM, each.claim) for each in deployment.volumes if each.claim]
    if deployment.security.service_account:
        wished.append((ACCOUNT, deployment.security.service_account))
    for kind, name in wished:
        there = api.get(kind, deployment.namespace, name) is not None
        where = f"in namespace {deployment.namespace}"
        yield Finding(
            f"{kind.name} {name}",
            there,
            "there" if there else "not there",
            f"make it {where}, or correct the deployment file",
        )


def pull_secrets(api: Api, deployment: Deployment) -> Iterator[Finding]:
    """Yield whether the credentials of the registry are there, and are of the image's registry."""
    registry = registry_of(deployment.image.name)
    known: set[str] = set()
    for name in deployment.image.pull_secrets:
        table = api.get(SECRET, deployment.namespace, name)
        make = (
            f"kubectl create secret docker-registry {name} -n {deployment.namespace} "
            f"--docker-server={registry} --docker-username=... --docker-password=..."
        )
        if table is None:
            yield Finding(f"Secret {name}", False, "not there", f"make it: {make}")
        elif table.get("type", _DOCKER) != _DOCKER:
            found = f"of type {table['type']}, which no node reads for a registry"
            yield Finding(f"Secret {name}", False, found, f"make it anew: {make}")
        else:
            hosts = _registries(table)
            known |= hosts
            yield Finding(
                f"Secret {name}", True, f"for {', '.join(sorted(hosts)) or 'no registry'}"
            )
    if known and registry not in known:
        yield Finding(
            "pull secrets",
            False,
            f"none is for {registry}, from where the image comes",
            "add the credentials of that registry, or correct image.name",
        )


def registry_of(image: str) -> str:
    """Return the host of an image's registry."""
    first, slash, _ = image.partition("/")
    host = slash and ("." in first or ":" in first or first == "localhost")
    return first if host else _HUB


def _registries(table: Table) -> set[str]:
    """Return the hosts that a Secret has credentials for; none where it cannot be read."""
    try:
        text = base64.b64decode((table.get("data") or {})[".dockerconfigjson"])
        urls = json.loads(text)["auths"]
    except (KeyError, ValueError, TypeError, binascii.Error):
        return set()
    hosts = {url.partition("://")[2].partition("/")[0] or url.partition("/")[0] for url in urls}
    return {_HUB if host.endswith(_HUB) else host for host in hosts}
