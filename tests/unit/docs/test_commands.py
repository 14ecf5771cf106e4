"""Every command on a page exists: its verbs, its options, the make target, the module it starts."""

import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import typer
from typer.core import TyperCommand, TyperGroup
from typer.testing import CliRunner

from pipelines.commands.app import app
from tests.unit.docs.pages import ROOT, code, pages

COMMAND = typer.main.get_command(app)
ASKED = re.compile(r"^--[a-z][\w-]*")
PROMPT = re.compile(r"^(?:\$ )?(?:\.venv/bin/)?(raymoe|make|python -m) ")


def fault(line: str) -> str | None:
    """Return what is wrong with a command line of a page; None if nothing is, or if it is none."""
    begin = PROMPT.match(line)
    if begin is None:
        return None
    rest = line[begin.end() :].split("  #")[0].split(" #")[0].rstrip("\\ ")
    try:
        words = shlex.split(rest.split("|")[0] if begin[1] == "raymoe" else rest)
    except ValueError:
        words = rest.split()
    return {"raymoe": _raymoe, "make": _make, "python -m": _module}[begin[1]](words)


def _raymoe(words: list[str]) -> str | None:
    command, path = COMMAND, []
    while isinstance(command, TyperGroup):
        if not words or words[0].startswith("-") or not words[0].islower():
            return None
        if words[0] not in command.commands:
            return f"no command {words[0]}"
        path.append(words.pop(0))
        command = command.commands[path[-1]]
    asked = {found[0] for word in words for found in re.finditer(ASKED, word)}
    missing = sorted(asked - _options(tuple(path)))
    return f"no option {', '.join(missing)}" if missing else None


@cache
def _options(path: tuple[str, ...]) -> set[str]:
    """Return the options that the help of a command shows."""
    shown = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    return set(re.findall(r"--[a-z][\w-]*", shown.output))


def _make(words: list[str]) -> str | None:
    targets = re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    missing = [word for word in words if re.fullmatch(r"[a-z][\w-]*", word) and word not in targets]
    return f"no target {missing[0]}" if missing else None


def _module(words: list[str]) -> str | None:
    path = ROOT.joinpath(*words[0].split("."))
    ours = path.parent.exists() and path.parts[len(ROOT.parts)] in ("benchmarks", "pipelines")
    if not ours or "<" in words[0]:
        return None
    there = path.with_suffix(".py").exists() or (path / "__main__.py").exists()
    return None if there else f"no module {words[0]}"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("raymoe train run.toml --resume", None),
        ("$ raymoe train run.toml --resumed", "no option --resumed"),
        ("raymoe trian run.toml", "no command trian"),
        ("raymoe kube rendre plan.toml", "no command rendre"),
        ("make tset", "no target tset"),
        (".venv/bin/python -m benchmarks.nothing", "no module benchmarks.nothing"),
        ("ls --nothing", None),
    ],
)
def test_faults_are_found(line: str, found: str | None) -> None:
    assert fault(line) == found


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_a_page_exist(page: Path) -> None:
    found = [(number, line, what) for number, line in code(page) if (what := fault(line))]
    assert not found


def test_every_command_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in _verbs(COMMAND) if f"raymoe {name}" not in text] == []


def _verbs(command: TyperCommand | TyperGroup, path: str = "") -> list[str]:
    if not isinstance(command, TyperGroup):
        return [path.strip()]
    return [
        verb for name, each in command.commands.items() for verb in _verbs(each, f"{path} {name}")
    ]
