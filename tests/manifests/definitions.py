"""KubeRay's definitions of its objects, as this folder keeps them: schemas alone, each part once.

    python -m tests.manifests.definitions DIRECTORY            writes definitions.json anew
    python -m tests.manifests.definitions DIRECTORY --check    says whether it is of that release

DIRECTORY is ``ray-operator/config/crd/bases`` of a checkout of KubeRay. What is left out are the
descriptions, and the versions other than v1; a part that occurs several times is written once, and
``{"$share": NAME}`` stands where it belongs.
"""

import json
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).with_name("definitions.json")
PLURALS = {"RayCluster": "rayclusters", "RayJob": "rayjobs", "RayService": "rayservices"}
NOTICE = (
    "From KubeRay 1.7.0 (https://github.com/ray-project/kuberay, ray-operator/config/crd/bases), "
    "Copyright the KubeRay authors, Apache-2.0. Changed: descriptions and older versions are left "
    "out, parts that occur several times are written once (python -m tests.manifests.definitions)."
)

_WORTH = 200
"""Characters from which a part that occurs again is written once."""

Table = dict[str, Any]


@cache
def definition(kind: str) -> Table:
    """Return the schema of one kind at version v1."""
    stored = json.loads(FILE.read_text(encoding="utf-8"))
    found: Table = expanded(stored["kinds"][kind], stored["shared"])
    return found


def without_descriptions(node: Any, names: bool = False) -> Any:
    """Return a schema without its descriptions; ``names``: the keys are names of properties."""
    if isinstance(node, list):
        return [without_descriptions(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: without_descriptions(value, key == "properties" and not names)
        for key, value in node.items()
        if names or key != "description"
    }


def shared(kinds: Table) -> Table:
    """Return the same schemas with each part once."""
    counts: Counter[str] = Counter()
    _count(kinds, counts)
    parts: dict[str, tuple[str, Any]] = {}
    table = _share(kinds, counts, parts)
    return {"kinds": table, "shared": dict(parts.values())}


def expanded(node: Any, parts: Table) -> Any:
    """Return a schema with every part where it belongs."""
    if isinstance(node, list):
        return [expanded(item, parts) for item in node]
    if not isinstance(node, dict):
        return node
    if node.keys() == {"$share"}:
        return expanded(parts[node["$share"]], parts)
    return {key: expanded(value, parts) for key, value in node.items()}


def _count(node: Any, counts: Counter[str]) -> None:
    if isinstance(node, dict):
        counts[_text(node)] += 1
        if counts[_text(node)] > 1:
            return
    for child in node.values() if isinstance(node, dict) else node:
        if isinstance(child, dict | list):
            _count(child, counts)


def _share(node: Any, counts: Counter[str], parts: dict[str, tuple[str, Any]]) -> Any:
    if isinstance(node, list):
        return [_share(item, counts, parts) for item in node]
    if not isinstance(node, dict):
        return node
    text = _text(node)
    if text in parts:
        return {"$share": parts[text][0]}
    table = {key: _share(value, counts, parts) for key, value in node.items()}
    if counts[text] == 1 or len(text) < _WORTH:
        return table
    parts[text] = (f"part-{len(parts)}", table)
    return {"$share": parts[text][0]}


def _text(node: Any) -> str:
    return json.dumps(node, sort_keys=True)


def read(directory: Path) -> Table:
    """Return the schemas of KubeRay's own files."""
    kinds = {}
    for kind, plural in PLURALS.items():
        text = (directory / f"ray.io_{plural}.yaml").read_text(encoding="utf-8")
        versions = yaml.load(text, Loader=yaml.CSafeLoader)["spec"]["versions"]
        (v1,) = [each for each in versions if each["name"] == "v1"]
        kinds[kind] = without_descriptions(v1["schema"]["openAPIV3Schema"])
    return kinds


def main() -> None:
    kinds = read(Path(sys.argv[1]))
    if "--check" in sys.argv:
        same = all(definition(kind) == kinds[kind] for kind in kinds)
        sys.exit(None if same else f"{FILE.name} is of another release; write it anew")
    table = {"notice": NOTICE, **shared(kinds)}
    FILE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
