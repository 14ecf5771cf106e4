"""Labels of nodes, and what selects them in Ray's words: v, !v, in(v, w), !in(v, w).

Keys and values are what Kubernetes takes as such, and Ray takes no less. A selector with ``!`` also
takes a node that lacks the label.
"""

import re
from dataclasses import dataclass

from moe.errors import PlanError

MAX_PART = 63

_LABEL = r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?"
_DOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_SELECTOR = re.compile(rf"(?P<no>!?)(?:in\((?P<many>{_LABEL}(?:, ?{_LABEL})*)\)|(?P<one>{_LABEL}))")


@dataclass(frozen=True, slots=True)
class Selector:
    """What the label of a node must be one of; with ``none_of`` must not."""

    values: tuple[str, ...]
    none_of: bool

    def takes(self, value: str | None) -> bool:
        """Tell whether a node with this label may be used; None is a node without it."""
        return (value in self.values) != self.none_of


def selector(text: str) -> Selector:
    """Return what a selector means; PlanError where it means nothing."""
    found = _SELECTOR.fullmatch(text)
    values = re.split(", ?", found["many"] or found["one"]) if found else []
    if found is None or not all(map(is_label_value, values)):
        raise PlanError(
            f"label selector {text!r} means nothing; write value, !value, in(value, value) or "
            "!in(value, value), values of at most 63 letters, digits, dots, dashes, underscores"
        )
    return Selector(tuple(values), found["no"] == "!")


def is_label_key(text: str) -> bool:
    """Tell whether text is a label key: a name, after a domain and a slash if it has one."""
    domain, slash, name = text.rpartition("/")
    if slash and not (len(domain) <= 253 and _DOMAIN.fullmatch(domain)):
        return False
    return bool(name) and is_label_value(name)


def is_label_value(text: str) -> bool:
    """Tell whether text is a label value; empty is one."""
    return not text or (len(text) <= MAX_PART and re.fullmatch(_LABEL, text) is not None)
