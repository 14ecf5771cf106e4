"""The volumes of pods, and where containers mount them."""

from collections.abc import Iterator
from typing import Any

from cluster.kuberay.amounts import quantity
from cluster.kuberay.deployment import Deployment, Volume
from cluster.kuberay.deployment.sizes import GIB
from cluster.kuberay.work import FILES

SCRATCH = "/tmp"
"""The directory that is written to where the file system of the image is read-only: Ray's own files
and, as HOME, what libraries keep. The home of Ray's images holds Python and cannot be replaced."""

Table = dict[str, Any]


def cluster_volumes(deployment: Deployment, files: str, shared_bytes: int) -> Table:
    """Return the volumes of a pod of the Ray cluster, with the mounts of its container.

    ``files`` names the ConfigMap with the files of the work. ``shared_bytes`` bounds /dev/shm; 0
    leaves that to KubeRay, which bounds it by the memory of the pod.
    """
    claim = {"persistentVolumeClaim": {"claimName": deployment.storage.claim}}
    pairs = [_pair("storage", deployment.storage.mount, claim)]
    pairs.append(_pair("config", FILES, {"configMap": {"name": files}}, read_only=True))
    if shared_bytes:
        memory = {"medium": "Memory", "sizeLimit": quantity(shared_bytes)}
        pairs.append(_pair("shm", "/dev/shm", {"emptyDir": memory}))
    pairs += _scratch(deployment)
    for each in deployment.volumes:
        pairs.append(_pair(each.name, each.mount, _source(each), each.read_only))
    return _together(pairs)


def scratch_volumes(deployment: Deployment) -> Table:
    """Return the same for a pod outside the Ray cluster."""
    return _together(list(_scratch(deployment)))


Pair = tuple[Table, Table]


def _scratch(deployment: Deployment) -> Iterator[Pair]:
    if deployment.security.read_only_root:
        yield _pair("tmp", SCRATCH, {"emptyDir": {}})


def _pair(name: str, path: str, source: Table, read_only: bool = False) -> Pair:
    mount: Table = {"name": name, "mountPath": path}
    return {"name": name, **source}, mount | ({"readOnly": True} if read_only else {})


def _together(pairs: list[Pair]) -> Table:
    if not pairs:
        return {"volumes": [], "volumeMounts": []}
    volumes, mounts = zip(*pairs, strict=True)
    return {"volumes": list(volumes), "volumeMounts": list(mounts)}


def _source(volume: Volume) -> Table:
    if volume.claim is not None:
        return {"persistentVolumeClaim": {"claimName": volume.claim}}
    if volume.secret is not None:
        return {"secret": {"secretName": volume.secret}}
    if volume.config_map is not None:
        return {"configMap": {"name": volume.config_map}}
    if volume.memory_gib is not None:
        return {"emptyDir": {"medium": "Memory", "sizeLimit": quantity(volume.memory_gib * GIB)}}
    if volume.disk_gib is not None:
        return {"emptyDir": {"sizeLimit": quantity(volume.disk_gib * GIB)}}
    table: Table = {"driver": volume.csi_driver}
    if volume.read_only:
        table["readOnly"] = True
    if volume.csi_attributes:
        table["volumeAttributes"] = dict(volume.csi_attributes)
    return {"csi": table}
