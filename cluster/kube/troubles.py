"""Why pods do not run, in a sentence that ends with what to change."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from cluster.kube.observed import Observed

Table = Mapping[str, Any]

_PULL = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
_CONFIG = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_INVALID = ("InvalidRayJob", "InvalidRayService", "InvalidRayCluster")

_REMEDIES: tuple[tuple[str, str], ...] = (
    (r"exceeded quota", "raise the quota of the namespace, or make a plan with fewer ranks"),
    (
        r"violates PodSecurity",
        "leave out what the namespace forbids (security.lock_memory), or label it for it",
    ),
    (
        r'persistentvolumeclaim "[^"]*" not found',
        "make the claim (manifests/base/storage.yaml), or correct storage.claim",
    ),
    (
        r"unbound immediate PersistentVolumeClaims",
        "the claim has no volume: see its events, its StorageClass and its access mode",
    ),
    (
        r"didn't match Pod's node affinity/selector",
        "no node has these labels: correct workers.node_selectors",
    ),
    (r"untolerated taint", "add the taint to workers.tolerations"),
    (
        r"Insufficient ([\w./-]*\w)",
        r"no node has so much \1 free: add nodes, wait for others to end, or make a smaller plan",
    ),
    (
        r"serviceaccount \"?[^ ]*\"? not found",
        "make the account, or correct security.service_account",
    ),
    (r"secret \"[^\"]*\" not found", "make the Secret in this namespace"),
    (r"configmap \"[^\"]*\" not found", "apply the ConfigMap that was rendered beside the object"),
)


def trouble(observed: Observed) -> str:
    """Return the most frequent reason why pods do not run; empty if nothing stands in the way."""
    said = Counter(sentence for pod in observed.pods for sentence in _of_pod(pod))
    if said:
        sentence, count = said.most_common(1)[0]
        of = f"{count} of {len(observed.pods)} pods" if len(observed.pods) > 1 else "the pod"
        return f"{of}: {sentence}"
    return next(_of_events(observed.events), "")


def remedy(message: str) -> str:
    """Return a message with what to change, where we know."""
    for pattern, what in _REMEDIES:
        if found := re.search(pattern, message):
            return f"{message.rstrip('. ')}; {found.expand(what)}"
    return message.rstrip(". ")


def _of_pod(pod: Table) -> Iterator[str]:
    status = pod.get("status") or {}
    if status.get("reason") == "Evicted":
        yield f"evicted: {status.get('message', '')}; raise its disk_gib or its memory"
        return
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            yield remedy(f"not scheduled: {condition.get('message', condition.get('reason', ''))}")
    boxes = (status.get("initContainerStatuses") or []) + (status.get("containerStatuses") or [])
    for box in boxes:
        yield from _of_container(box)


def _of_container(box: Table) -> Iterator[str]:
    waiting = (box.get("state") or {}).get("waiting") or {}
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    if reason in _PULL:
        yield (
            f"image {box.get('image', '')} cannot be pulled ({message or reason}); correct "
            "image.name, or name the registry's credentials in image.pull_secrets"
        )
    elif reason in _CONFIG:
        yield remedy(f"its container cannot start: {message or reason}")
    ended = [(box.get(key) or {}).get("terminated") or {} for key in ("state", "lastState")]
    for end in ended:
        if end.get("reason") == "OOMKilled":
            yield (
                f"container {box.get('name', '')} exceeded the memory of its pod; raise "
                "memory_gib of the head or the driver, or make the plan of the ranks again"
            )
            return
    if reason == "CrashLoopBackOff":
        yield f"container {box.get('name', '')} ends again and again; see `raymoe kube logs`"


def _of_events(events: tuple[Table, ...]) -> Iterator[str]:
    """Yield what the last warnings say, the newest first."""
    for event in reversed(events):
        if event.get("type") != "Warning":
            continue
        reason, message = str(event.get("reason", "")), str(event.get("message", ""))
        if reason.startswith(_INVALID):
            yield f"KubeRay refuses the object: {message}"
        elif reason.startswith("Failed"):
            yield remedy(message)
