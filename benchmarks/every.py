"""Which benchmarks there are, and what became of each when all of them ran."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

FOLDER = Path(__file__).parent
STARTERS = ("cluster.session", "benchmarks.server_process", "benchmarks.served_here")
"""What a benchmark imports that starts Ray, here or in a server of its own."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one benchmark ended: its exit code, its seconds, and the bars that it missed."""

    name: str
    code: int
    seconds: float
    missed: tuple[str, ...] = ()

    @property
    def lines(self) -> list[str]:
        """Return what the end of the list says of it: a line, or one for each missed bar."""
        if self.code:
            return [f"{self.name}: failed with exit code {self.code}"]
        missed = [f"{self.name}: missed a bar: {miss}" for miss in self.missed]
        return missed or [f"{self.name}: done in {self.seconds:.0f} s"]

    def passes(self, check: bool) -> bool:
        """Tell whether it ran to its end and, where bars are checked, met them all."""
        return not self.code and not (check and self.missed)


def names() -> list[str]:
    """Return the benchmarks in order: the modules of this folder that have a ``main``."""
    modules = (path for path in FOLDER.glob("*.py") if not path.name.startswith("__"))
    return sorted(path.stem for path in modules if "\ndef main() -> None:" in path.read_text())


def starts_ray(name: str) -> bool:
    """Tell whether a benchmark starts Ray or joins it."""
    text = (FOLDER / f"{name}.py").read_text()
    return any(f"from {module} import" in text for module in STARTERS)


def run(name: str, words: Sequence[str]) -> Outcome:
    """Run a benchmark in a process of its own, whose table goes where this process prints."""
    with TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.json"
        command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(rows), *words]
        started = time.monotonic()
        code = subprocess.run(command, check=False).returncode
        seconds = time.monotonic() - started
        missed = json.loads(rows.read_text())["missed"] if rows.exists() else []
    return Outcome(name, code, seconds, tuple(missed))
