"""All benchmarks are found, each runs in a process, and a failure is told at the end."""

import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import benchmarks
from benchmarks import every
from benchmarks.every import Outcome

ROOT = Path(__file__).parents[3]


def test_every_module_with_a_main_is_a_benchmark() -> None:
    modules = [each.name for each in pkgutil.iter_modules(benchmarks.__path__)]
    found = [name for name in modules if name != "__main__" and _has_main(name)]
    assert every.names() == found
    assert {"moe_block", "train_step", "one_curve"} <= set(found)


def _has_main(name: str) -> bool:
    return hasattr(import_module(f"benchmarks.{name}"), "main")


def test_those_that_start_ray_are_told_apart() -> None:
    assert every.starts_ray("training")
    assert not every.starts_ray("placement")


@pytest.mark.parametrize(
    ("outcome", "lines", "passes"),
    [
        (Outcome("one", 0, 7.2), ["one: done in 7 s"], (True, True)),
        (Outcome("one", 2, 7.2), ["one: failed with exit code 2"], (False, False)),
        (
            Outcome("one", 0, 7.2, ("speed", "memory")),
            ["one: missed a bar: speed", "one: missed a bar: memory"],
            (True, False),
        ),
    ],
)
def test_an_outcome_says_how_it_ended(
    outcome: Outcome, lines: list[str], passes: tuple[bool, bool]
) -> None:
    assert outcome.lines == lines
    assert (outcome.passes(check=False), outcome.passes(check=True)) == passes


def test_a_benchmark_that_fails_does_not_hide_the_next(tmp_path: Path) -> None:
    words = ["upcycle", "placement", "--smallest", "--mergekit", str(tmp_path / "nothing")]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "nothing" in done.stderr
    told, done_line = done.stdout.splitlines()[-2:]
    assert told == "upcycle: failed with exit code 1"
    assert done_line.startswith("placement: done in ")


def test_an_unknown_benchmark_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "placements"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "no benchmark is called placements" in done.stderr
