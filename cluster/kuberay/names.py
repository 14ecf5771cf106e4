"""Names that Kubernetes and KubeRay accept; for labels see ``moe.planning.devices.labels``."""

import re
from collections.abc import Mapping

MAX_NAME: Mapping[str, int] = {"RayCluster": 53, "RayJob": 47, "RayService": 47}
"""Longest name of each kind of object: KubeRay appends to the name and needs at most 63 characters.
"""

MAX_PART = 63
MAX_OBJECT_NAME = 253

_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_DNS_1123 = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def is_name(text: str, longest: int = MAX_PART) -> bool:
    """Return whether text is a DNS-1035 label: lower-case letters, digits, dashes; a letter
    first.
    """
    return len(text) <= longest and _DNS_1035.fullmatch(text) is not None


def is_namespace(text: str) -> bool:
    """Return whether text is a DNS-1123 label, which may begin with a digit."""
    return len(text) <= MAX_PART and "." not in text and _DNS_1123.fullmatch(text) is not None


def is_object_name(text: str) -> bool:
    """Return whether text is a DNS-1123 subdomain, as the names of most objects are."""
    return len(text) <= MAX_OBJECT_NAME and _DNS_1123.fullmatch(text) is not None
