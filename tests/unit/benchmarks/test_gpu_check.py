"""The check for GPUs: all of its parts on a CPU without Ray, and what their deadlines do."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from math import isfinite
from pathlib import Path

import psutil
import pytest

from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.process import End, Part, Work, run
from benchmarks.gpu.rows import Row, Setting, at_least, at_most

ROOT = Path(__file__).parents[3]
CPU = Setting("cpu", tiny=True)

ABSENT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in {"ray", "kubernetes", "fastapi", "starlette", "uvicorn", "openai", "gguf", "bs4"}:
            raise ModuleNotFoundError(f"No module named {top!r}", name=top)

sys.meta_path.insert(0, Absent())
"""
"""What a machine with a GPU may lack: all of what it must have is in wheels.txt, or comes with its
torch and transformers."""


def test_every_part_runs_on_a_cpu_without_ray(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(ABSENT)
    assert _python(tmp_path, "-c", "import ray").returncode == 1
    words = ("-m", "benchmarks.gpu_check", "--device", "cpu", "--tiny", "--check")
    done = _python(tmp_path, *words, "--seconds", "270", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    ends = {
        line["part"]: line["error"] for line in lines if "seconds" in line and "what" not in line
    }
    assert ends == {part.name: None for part in PARTS}
    for line in lines:
        assert all(isfinite(value) for value in line.values() if isinstance(value, float)), line
        assert all(bar["met"] is not False for bar in line.get("bars", ())), line


def _python(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )


def hanging(setting: Setting) -> Iterator[Row]:
    """Start a process, tell its number, and never come back."""
    child = subprocess.Popen(["sleep", "600"])
    yield Row("started", {"pid": child.pid})
    time.sleep(600)


def failing(setting: Setting) -> Iterator[Row]:
    yield Row("begun", {})
    raise ValueError("no such kernel")


def dying(setting: Setting) -> Iterator[Row]:
    yield Row("begun", {})
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_part_that_hangs_is_ended_with_what_it_started() -> None:
    row, end = run(Part("hanging", 9.0, hanging), CPU, 1.0)
    assert isinstance(row, Row)
    assert isinstance(end, End)
    assert end.error == "not done at its deadline"
    pid = row.figures["pid"]
    assert isinstance(pid, int)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("work", "error"), [(failing, "ValueError: no such kernel"), (dying, "ended with code -9")]
)
def test_rows_stay_of_a_part_that_breaks(work: Work, error: str) -> None:
    row, end = run(Part("breaking", 9.0, work), CPU, 9.0)
    assert row == Row("begun", {})
    assert isinstance(end, End)
    assert error in str(end.error)


def test_speed_is_judged_on_one_card_alone() -> None:
    assert at_least(CPU, "TFLOP/s", 1.0, 300.0).met is None
    assert at_most("gap", 0.1, 0.01).met is False


def test_the_wheels_are_those_that_were_tested() -> None:
    pinned = set((ROOT / "requirements.lock").read_text().splitlines())
    assert set((ROOT / "benchmarks/gpu/wheels.txt").read_text().splitlines()) <= pinned
