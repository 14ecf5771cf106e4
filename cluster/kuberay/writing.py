"""Objects as YAML, in the form in which people read them."""

from collections.abc import Iterable, Mapping
from typing import Any

import yaml


def dump(objects: Iterable[Mapping[str, Any]]) -> str:
    """Return the objects as YAML documents, with keys in the order of insertion."""
    return as_yaml(objects, explicit_start=True)


def as_yaml(documents: Iterable[Mapping[str, Any]], explicit_start: bool = False) -> str:
    """Return YAML in which multi-line text is a block and nothing is an anchor."""
    return yaml.dump_all(
        documents, Dumper=_Dumper, sort_keys=False, explicit_start=explicit_start, width=100
    )


class _Dumper(yaml.SafeDumper):
    """Writes multi-line text as YAML blocks, and writes no anchors."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
