"""What Kubernetes and KubeRay accept as names and labels."""

import re
from collections.abc import Mapping

MAX_NAME: Mapping[str, int] = {"RayCluster": 53, "RayJob": 47, "RayService": 47}
"""Longest name of each kind: KubeRay appends to it and must stay within 63 characters."""

MAX_PART = 63

_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_DNS_1123 = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")


def is_name(text: str, longest: int = MAX_PART) -> bool:
    """Tell whether text is a DNS-1035 label: lower-case letters, digits, dashes, a letter first."""
    return len(text) <= longest and _DNS_1035.fullmatch(text) is not None


def is_namespace(text: str) -> bool:
    """Tell whether text is a DNS-1123 label, which may begin with a digit."""
    return len(text) <= MAX_PART and "." not in text and _DNS_1123.fullmatch(text) is not None


def is_label_key(text: str) -> bool:
    """Tell whether text is a label key: a name, after a domain and a slash if it has one."""
    domain, slash, name = text.rpartition("/")
    if slash and not (len(domain) <= 253 and _DNS_1123.fullmatch(domain)):
        return False
    return len(name) <= MAX_PART and _LABEL.fullmatch(name) is not None


def is_label_value(text: str) -> bool:
    """Tell whether text is a label value; empty is one."""
    return not text or (len(text) <= MAX_PART and _LABEL.fullmatch(text) is not None)
