"""What a pod says of a container, as the words, variables and mounts of a process."""

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kubernetes.utils.quantity import parse_quantity

from cluster.kube.kinds import CONFIG_MAP, SECRET, Kind
from tests.kube.node.mounts import Mount
from tests.kube.objects import Objects
from tests.kube.store import Table

NAMES = ("hosts", "resolv.conf")
"""Files by which a pod finds names: the first has them all, the second no server to ask."""
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
_VARIABLE = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")


@dataclass(frozen=True, slots=True)
class Node:
    """What the pods of this machine have beside what they say: what their image sets, the volumes
    that claims stand for, and what an account finds in its pods.
    """

    folder: Path
    variables: Mapping[str, str]
    claims: Mapping[str, Path]
    account: Path


@dataclass(frozen=True)
class Spec:
    """A pod on a node: what its containers are started with."""

    pod: Table
    node: Node
    objects: Objects
    folder: Path

    def words(self, box: Table) -> list[str]:
        """Return the command of a container, with its variables in it."""
        found = self.variables(box)
        words = [*box.get("command", ()), *box.get("args", ())]
        return [_VARIABLE.sub(lambda it: found.get(it[1], it[0]), each) for each in words]

    def variables(self, box: Table) -> dict[str, str]:
        """Return the variables of a container."""
        found = dict(self.node.variables)
        for source in box.get("envFrom", ()):
            found |= self._secret(source["secretRef"]["name"])
        for each in box.get("env", ()):
            found[each["name"]] = str(each.get("value", "")) or self._elsewhere(each)
        return found

    def mounts(self, box: Table) -> list[Mount]:
        """Return what is mounted into a container."""
        volumes = {each["name"]: each for each in self.pod["spec"].get("volumes", ())}
        own = [self._mount(each, volumes) for each in box.get("volumeMounts", ())]
        names = [Mount(f"/etc/{each}", self.folder / each) for each in NAMES]
        # Pods do not see each other's files of Ray, nor this machine's.
        apart = [] if any(each.path == "/tmp/ray" for each in own) else [self._ray(box)]
        return [*own, *apart, *names, *self._account()]

    def _ray(self, box: Table) -> Mount:
        folder = self.folder / f"ray-{box['name']}"
        folder.mkdir(exist_ok=True)
        return Mount("/tmp/ray", folder)

    def _account(self) -> Iterator[Mount]:
        if self.pod["spec"].get("automountServiceAccountToken", True):
            yield Mount(ACCOUNT, self.node.account)

    def _mount(self, mount: Table, volumes: Mapping[str, Table]) -> Mount:
        path, volume = mount["mountPath"], volumes[mount["name"]]
        if "persistentVolumeClaim" in volume:
            return Mount(path, self.node.claims[volume["persistentVolumeClaim"]["claimName"]])
        empty = volume.get("emptyDir", {})
        if empty.get("medium") == "Memory":
            size = empty.get("sizeLimit")
            return Mount(path, size=int(parse_quantity(size)) if size else None)
        folder = self.folder / f"volume-{volume['name']}"
        folder.mkdir(exist_ok=True)
        if "configMap" in volume:
            _fill(folder, self._read(CONFIG_MAP, volume["configMap"]["name"])["data"])
        elif "secret" in volume:
            _fill(folder, self._secret(volume["secret"]["secretName"]))
        elif "emptyDir" not in volume:
            raise NotImplementedError(f"volume {volume}")
        return Mount(path, folder)

    def _elsewhere(self, variable: Table) -> str:
        source = variable.get("valueFrom", {})
        if "secretKeyRef" in source:
            ref = source["secretKeyRef"]
            return self._secret(ref["name"])[ref["key"]]
        path = source.get("fieldRef", {}).get("fieldPath", "")
        if found := re.fullmatch(r"metadata\.labels\['(.*)'\]", path):
            return str(self.pod["metadata"]["labels"][found[1]])
        known = {"metadata.name": "name", "metadata.namespace": "namespace"}
        return str(self.pod["metadata"][known[path]]) if path else ""

    def _secret(self, name: str) -> dict[str, str]:
        data = self._read(SECRET, name)["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def _read(self, kind: Kind, name: str) -> Table:
        found = self.objects.get(kind, name)
        if found is None:
            raise LookupError(f"{name} is not there")
        return found


def _fill(folder: Path, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        (folder / name).write_text(text)
