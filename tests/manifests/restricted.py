"""The Pod Security Standard ``restricted``, rule by rule, as its page states them (v1.37).

https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

from collections.abc import Iterator, Mapping
from typing import Any

Table = Mapping[str, Any]

VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def violations(pod: Table) -> Iterator[str]:
    """Yield what the standard refuses in the spec of a pod, by the field."""
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(key):
            yield key
    own = pod.get("securityContext", {})
    for volume in pod.get("volumes", ()):
        if kinds := volume.keys() - {"name"} - VOLUMES:
            yield f"volumes: {sorted(kinds)}"
    if own.get("sysctls"):
        yield "sysctls"
    every = [
        *pod["containers"],
        *pod.get("initContainers", ()),
        *pod.get("ephemeralContainers", ()),
    ]
    for box in every:
        yield from _of_container(box, own)


def _of_container(box: Table, pod: Table) -> Iterator[str]:
    own = box.get("securityContext", {})
    either = {**pod, **own}
    capabilities = own.get("capabilities", {})
    wrong = {
        "privileged": own.get("privileged"),
        "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is not False,
        "runAsNonRoot": either.get("runAsNonRoot") is not True,
        "runAsUser": either.get("runAsUser") == 0,
        "seccompProfile": either.get("seccompProfile", {}).get("type")
        not in ("RuntimeDefault", "Localhost"),
        "capabilities.drop": "ALL" not in capabilities.get("drop", ()),
        "capabilities.add": set(capabilities.get("add", ())) - {"NET_BIND_SERVICE"},
        "procMount": own.get("procMount", "Default") != "Default",
        "hostPort": any(port.get("hostPort") for port in box.get("ports", ())),
    }
    yield from (field for field, found in wrong.items() if found)
