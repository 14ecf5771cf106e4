"""Nodes that pods may be on, and what every pod needs of a cluster: names that resolve."""

from collections.abc import Iterator
from typing import Any

from cluster.kube.api import Api
from cluster.kube.checks.finding import Finding
from cluster.kube.kinds import NODE, POD
from cluster.kube.standing import is_ready
from cluster.kuberay.deployment import Deployment

Table = dict[str, Any]

_DNS_SELECTOR = "k8s-app=kube-dns"
_DNS_NAMESPACE = "kube-system"


def nodes(api: Api, deployment: Deployment) -> Iterator[Finding]:
    """Yield whether some node has the labels that pods ask for, and how many GPUs there are."""
    there = api.every(NODE, None)
    selectors = {
        "head": deployment.head.node_selector,
        "driver": deployment.driver.node_selector,
        **{f"ranks on {kind}": each for kind, each in deployment.workers.node_selectors.items()},
    }
    for what, selector in selectors.items():
        able = [node for node in there if selector.items() <= _labels(node).items()]
        if selector:
            words = ", ".join(f"{key}={value}" for key, value in selector.items())
            found = f"{len(able)} of {len(there)} nodes have {words}{_gpus(able, deployment)}"
            yield Finding(f"nodes for {what}", bool(able), found, "label nodes, or add such nodes")


def names_resolve(api: Api, deployment: Deployment) -> Iterator[Finding]:
    """Yield whether the cluster's DNS server runs: Ray's pods find their head by its name."""
    pods = api.every(POD, _DNS_NAMESPACE, _DNS_SELECTOR)
    ready = sum(map(is_ready, pods))
    yield Finding(
        "DNS",
        ready > 0 or (None if not pods else False),
        f"{ready} of {len(pods)} pods with {_DNS_SELECTOR} in {_DNS_NAMESPACE} are ready",
        f"pods find Ray's head by its name: kubectl describe pods -n {_DNS_NAMESPACE} -l "
        f"{_DNS_SELECTOR}; --probe asks from inside of a pod",
    )


def _gpus(nodes: list[Table], deployment: Deployment) -> str:
    wished = deployment.workers.gpu_resource
    resources = [wished] if wished else ["nvidia.com/gpu", "amd.com/gpu"]
    count = sum(
        int((node.get("status") or {}).get("allocatable", {}).get(name, 0))
        for node in nodes
        for name in resources
    )
    return f", {count} GPUs" if count else ""


def _labels(node: Table) -> Table:
    return dict(node["metadata"].get("labels") or {})
