"""Every dotted name of ours in a docstring or on a page is a module, something in one, or a key.

Keys are those of a run file, as ``train.steps``.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from moe.config.run import RunConfig
from tests.unit.docs.pages import PACKAGES, ROOT, pages

SECTIONS = {
    name: field.annotation
    for name, field in RunConfig.model_fields.items()
    if hasattr(field.annotation, "model_fields")
}
KEY = re.compile(rf"(?<![\w./-])(?:{'|'.join(SECTIONS)})\.[a-z]\w*(?![\w(/])")
NAME = re.compile(rf"(?<![\w./-])(?:{'|'.join(PACKAGES)})(?:\.[A-Za-z_]\w*)+(?![\w/])")
SUFFIXES = {"md", "toml", "py", "json", "yaml", "safetensors", "txt", "html"}


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def docstrings(path: Path) -> Iterator[str]:
    """Yield every string that stands alone: docstrings, and those under attributes."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Expr(value=ast.Constant(value=str() as text)):
                yield text


@cache
def defined(path: Path) -> dict[str, ast.stmt]:
    """Return what a module defines or imports at its top level, by name."""
    return members(ast.parse(path.read_text(encoding="utf-8")).body)


def members(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    found: dict[str, ast.stmt] = {}
    for node in body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                found[node.name] = node
            case ast.Import() | ast.ImportFrom():
                found |= {alias.asname or alias.name: node for alias in node.names}
            case ast.Assign():
                targets = [each for each in node.targets if isinstance(each, ast.Name)]
                found |= {each.id: node for each in targets}
            case ast.AnnAssign(target=ast.Name(id=name)):
                found[name] = node
    return found


def resolves(name: str) -> bool:
    """Tell whether a dotted name is a package, a module, a member of one, or a key."""
    words = name.split(".")
    section = SECTIONS.get(words[0])
    if section is not None and words[1] in section.model_fields:
        return True
    for count in range(len(words), 0, -1):
        path = ROOT.joinpath(*words[:count])
        rest = words[count:]
        if path.is_dir() and not rest:
            return True
        module = path.with_suffix(".py")
        if not module.exists():
            continue
        names = defined(module)
        while rest:
            node = names.get(rest.pop(0))
            if node is None:
                return False
            names = members(node.body) if isinstance(node, ast.ClassDef) else {}
        return True
    return False


def broken_names(text: str) -> list[str]:
    found = NAME.findall(text) + KEY.findall(text)
    names = [name for name in found if name.rsplit(".", 1)[1] not in SUFFIXES]
    return [name for name in names if not resolves(name)]


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("moe.planning", True),
        ("moe.errors.PlanError", True),
        ("train.steps", True),
        ("train.stepz", False),
        ("moe.errors.NoSuchError", False),
        ("moe.nowhere.PlanError", False),
    ],
)
def test_names_are_looked_up_in_the_source(name: str, there: bool) -> None:
    assert resolves(name) is there


def test_names_in_docstrings_resolve() -> None:
    broken = {
        str(path.relative_to(ROOT)): names
        for path in sources()
        if (names := [name for text in docstrings(path) for name in broken_names(text)])
    }
    assert not broken


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_names_on_pages_resolve(page: Path) -> None:
    assert not broken_names(page.read_text(encoding="utf-8"))
