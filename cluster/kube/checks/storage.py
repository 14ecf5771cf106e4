"""Volumes: the claim that all pods share, and the classes by which volumes are made."""

from collections.abc import Iterator
from typing import Any

from cluster.kube.api import Api, Refusal
from cluster.kube.checks.finding import Finding
from cluster.kube.kinds import CLAIM, STORAGE_CLASS
from cluster.kuberay.deployment import Deployment

MANY = "ReadWriteMany"

ONE_NODE = (
    "ebs.csi.aws.com",
    "pd.csi.storage.gke.io",
    "disk.csi.azure.com",
    "rancher.io/local-path",
    "kubernetes.io/no-provisioner",
    "k8s.io/minikube-hostpath",
)
"""Provisioners whose volumes one node can write to at a time, or that live on one."""

_DEFAULT = "storageclass.kubernetes.io/is-default-class"

Table = dict[str, Any]


def storage(api: Api, deployment: Deployment) -> Iterator[Finding]:
    """Yield whether the shared claim has, or will have, a volume that many nodes mount."""
    name = deployment.storage.claim
    claim = api.get(CLAIM, deployment.namespace, name)
    if claim is None:
        yield Finding(f"claim {name}", False, "not there", "make it (manifests/base/storage.yaml)")
    else:
        yield from _claim(api, name, claim)
    if (of_head := deployment.recovery.rocksdb_storage_class) is not None:
        yield from _class(of_head, _classes(api), "recovery.rocksdb_storage_class")


def _claim(api: Api, name: str, claim: Table) -> Iterator[Finding]:
    phase = (claim.get("status") or {}).get("phase", "Pending")
    modes = claim["spec"].get("accessModes") or []
    waits = False
    if phase != "Bound":
        try:
            classes = _classes(api)
        except Refusal:  # classes are of the cluster, and not everybody may read those
            classes = None
        if classes is not None:
            asked = _asked(claim, classes)
            waits = _waits(asked, classes)
            yield from _class(asked, classes, f"claim {name}", MANY in modes)
    yield Finding(
        f"claim {name}",
        phase == "Bound" or waits,
        f"{phase}, {', '.join(modes)}"
        + (", bound with its first pod" if waits and phase != "Bound" else ""),
        f"see its events (kubectl describe pvc {name}): its StorageClass must exist and make "
        "volumes of this access mode",
    )
    yield Finding(
        f"access mode of {name}",
        MANY in modes or None,
        ", ".join(modes),
        f"pods of several nodes need {MANY}; one node can do with ReadWriteOnce",
    )


def _classes(api: Api) -> dict[str, Table]:
    return {table["metadata"]["name"]: table for table in api.every(STORAGE_CLASS, None)}


def _asked(claim: Table, classes: dict[str, Table]) -> str | None:
    """Return the class of a claim: the one that it names, or the default one."""
    named = claim["spec"].get("storageClassName")
    if named is not None:
        return str(named)
    defaults = [
        name
        for name, table in classes.items()
        if (table["metadata"].get("annotations") or {}).get(_DEFAULT) == "true"
    ]
    return defaults[0] if defaults else None


def _waits(name: str | None, classes: dict[str, Table]) -> bool:
    """Return whether volumes of a class are made with the first pod that mounts them."""
    mode = classes.get(name or "", {}).get("volumeBindingMode")
    return mode == "WaitForFirstConsumer"


def _class(
    name: str | None, classes: dict[str, Table], whose: str, many: bool = False
) -> Iterator[Finding]:
    there = ", ".join(sorted(classes)) or "none"
    if name is None:
        yield Finding(
            "storage class",
            False,
            f"{whose} names none, and none is the default",
            f"name one of the cluster's ({there}) as storageClassName of the claim",
        )
    elif name == "":
        yield Finding(
            "storage class",
            None,
            f"{whose} asks for none",
            "somebody must make a volume for it by hand",
        )
    elif name not in classes:
        yield Finding(
            f"storage class {name}",
            False,
            f"not there, but {whose} names it",
            f"name one of the cluster's: {there}",
        )
    else:
        maker = str(classes[name].get("provisioner"))
        yield Finding(
            f"storage class {name}",
            not (many and maker in ONE_NODE),
            f"made by {maker}",
            f"it makes volumes for one node, and {whose} is {MANY}: name a class of a shared file "
            "system (NFS, CephFS, EFS, Filestore, FSx)",
        )
