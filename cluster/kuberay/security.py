"""Under which user and with which rights the processes of pods run."""

from typing import Any

from cluster.kuberay.deployment import SecuritySection

Table = dict[str, Any]


def container_security(security: SecuritySection, lock_memory: bool = False) -> Table:
    """Return the strictest security context under which Ray runs."""
    capabilities = {"drop": ["ALL"]} | ({"add": ["IPC_LOCK"]} if lock_memory else {})
    table: Table = {"allowPrivilegeEscalation": False, "capabilities": capabilities}
    return table | ({"readOnlyRootFilesystem": True} if security.read_only_root else {})


def pod_security(security: SecuritySection) -> Table:
    """Return the security context of a whole pod: no root, and volumes that its user may write."""
    return {
        "runAsNonRoot": True,
        "runAsUser": security.user,
        "fsGroup": security.user,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
