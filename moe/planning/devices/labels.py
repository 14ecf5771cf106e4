"""Labels of nodes, and label selectors in Ray's syntax: v, !v, in(v, w), !in(v, w).

Keys and values follow the rules of Kubernetes, all of which Ray accepts. A selector with ``!`` also
matches a node without the label.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from moe.errors import PlanError

MAX_PART = 63

_LABEL = r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?"
_DOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_SELECTOR = re.compile(rf"(?P<no>!?)(?:in\((?P<many>{_LABEL}(?:, ?{_LABEL})*)\)|(?P<one>{_LABEL}))")


@dataclass(frozen=True, slots=True)
class Selector:
    """The values of which the label of a node must have one; or none, with ``none_of``."""

    values: tuple[str, ...]
    none_of: bool

    def takes(self, value: str | None) -> bool:
        """Return whether the selector matches a node with this label value; None: no such label."""
        return (value in self.values) != self.none_of


def selector(text: str) -> Selector:
    """Parse a selector; PlanError if it is invalid."""
    found = _SELECTOR.fullmatch(text)
    values = re.split(", ?", found["many"] or found["one"]) if found else []
    if found is None or not all(map(is_label_value, values)):
        raise PlanError(
            f"label selector {text!r} is invalid; write value, !value, in(value, value) or "
            "!in(value, value), values of at most 63 letters, digits, dots, dashes, underscores"
        )
    return Selector(tuple(values), found["no"] == "!")


def for_ray(selectors: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return selectors by their keys as Ray reads them: a space in ``in(a, b)`` counts there."""
    return {key: text.replace(" ", "") for key, text in selectors}


def all_take(selectors: Iterable[tuple[str, str]], labels: Mapping[str, str]) -> bool:
    """Return whether the selectors of all keys match a node with these labels."""
    return all(selector(text).takes(labels.get(key)) for key, text in selectors)


def is_label_key(text: str) -> bool:
    """Return whether text is a label key: a name, optionally after a domain and a slash."""
    domain, slash, name = text.rpartition("/")
    if slash and not (len(domain) <= 253 and _DOMAIN.fullmatch(domain)):
        return False
    return bool(name) and is_label_value(name)


def is_label_value(text: str) -> bool:
    """Return whether text is a label value; an empty text is valid."""
    return not text or (len(text) <= MAX_PART and re.fullmatch(_LABEL, text) is not None)
