"""What must be there before a run can be applied: each check with its remedy."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from cluster.kube.api import Api, Refusal
from cluster.kube.checks import kuberay, names, nodes, storage
from cluster.kube.checks.finding import Finding
from cluster.kube.checks.probing import probe
from cluster.kube.checks.quotas import quotas
from cluster.kuberay.deployment import Deployment

Table = dict[str, Any]
Check = Callable[[Api, Deployment], Iterator[Finding]]


def examine(
    api: Api,
    deployment: Deployment,
    objects: Iterable[Table] = (),
    probe_seconds: float | None = None,
) -> Iterator[Finding]:
    """Yield every finding about a cluster, for objects of this deployment.

    Quotas are compared with what the ``objects`` ask for, if there are any. With ``probe_seconds``
    pods are started that look from inside, for so long at most.
    """
    yield Finding("API server", True, f"{api.version()} at {api.host}")
    checks: dict[str, Check] = {
        "definitions": kuberay.definitions,
        "operator": kuberay.operator,
        "queue": kuberay.queue,
        "rights": partial(names.rights, probing=probe_seconds is not None),
        "storage": storage.storage,
        "names": names.names,
        "pull secrets": names.pull_secrets,
        "nodes": nodes.nodes,
        "DNS": nodes.names_resolve,
        "quotas": partial(quotas, objects=objects),
    }
    if probe_seconds is not None:
        checks["probe"] = partial(probe, seconds=probe_seconds)
    for what, check in checks.items():
        try:
            yield from check(api, deployment)
        except Refusal as refusal:
            yield Finding(
                what,
                None,
                f"not examined: {refusal.message}",
                "run it under an account that may read this",
            )
