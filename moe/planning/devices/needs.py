"""The requests of a rank to its node besides CPUs, a GPU and memory: custom resources and labels.

Both are tuples of pairs, so that plans and devices stay values; in files they are tables.
"""

from collections.abc import Iterable
from math import isfinite

from moe.errors import PlanError
from moe.planning.devices.labels import is_label_key, selector

Resources = tuple[tuple[str, float], ...]
"""Names of custom resources of nodes, with the amount that a rank takes."""

Labels = tuple[tuple[str, str], ...]
"""Keys of labels with a selector each (``moe.planning.devices.labels``)."""

SMALLEST = 0.0001
"""Ray counts resources in ten-thousandths."""

_OTHERWISE = {
    "CPU": "threads",
    "GPU": "kind",
    "memory": "memory_bytes",
    "object_store_memory": "nothing: tensors never pass through the object store",
}


def check_needs(label: str, resources: Resources, labels: Labels) -> None:
    """Raise PlanError for a resource or a selector that no node can satisfy."""
    _check_once(label, "resources", (name for name, _ in resources))
    _check_once(label, "labels", (key for key, _ in labels))
    for name, amount in resources:
        _check_resource(label, name, amount)
    for key, text in labels:
        if not is_label_key(key):
            raise PlanError(
                f"{label}: labels names {key!r}, which is no key of a label; write a name of "
                "letters, digits, dots, dashes, underscores, after a domain and / if it has one"
            )
        try:
            selector(text)
        except PlanError as error:
            raise PlanError(f"{label}: labels.{key}: {error}") from None


def _check_resource(label: str, name: str, amount: float) -> None:
    if name in _OTHERWISE or name.startswith("accelerator_type:"):
        raise PlanError(
            f"{label}: resources names {name}, which a plan gives by "
            f"{_OTHERWISE.get(name, 'kind')}; leave it out of resources"
        )
    if not name or not (isfinite(amount) and amount >= SMALLEST):
        raise PlanError(
            f"{label}: resources gives {amount} of {name!r}; give the name of a resource and at "
            f"least {SMALLEST} of it, or leave it out"
        )


def _check_once(label: str, key: str, names: Iterable[str]) -> None:
    listed = list(names)
    if len(set(listed)) < len(listed):
        raise PlanError(f"{label}: {key} names one twice: {', '.join(listed)}; give each once")
