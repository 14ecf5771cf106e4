"""Everything that only a GPU can show, on one card in under six minutes, without Ray.

    python -m benchmarks.gpu_check --out OUT --check

Each part (``benchmarks.gpu``) runs in a process of its own, under a deadline of its own. Its rows
are printed and appended to ``OUT/gpu.jsonl`` as they come, so a check that is ended keeps what it
had. ``--device cpu --tiny`` runs the code of every part on a CPU, with shapes that show no speed.
Bars of correctness hold on every device; bars of speed are judged on an H200 alone. The guide on
GPUs (docs/guide/gpus.md) says what must be installed.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.gpu.ceilings import BYTES, CEILINGS, FLOPS, NO_GPU
from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.process import End, Part, run
from benchmarks.gpu.rows import Bar, Ceilings, Figure, Row, Setting

RESULTS = "gpu.jsonl"
SECONDS = 330.0


@dataclass(slots=True)
class Report:
    """What has come so far: each row is printed and kept at once."""

    file: Path
    failures: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)

    def row(self, part: Part, row: Row) -> None:
        """Print and keep a row, and the bars that it missed."""
        bars = [{"bar": bar.text, "met": bar.met} for bar in row.bars]
        self._keep({"part": part.name, "what": row.what, **row.figures, "bars": bars})
        figures = "  ".join(f"{name} {_shown(value)}" for name, value in row.figures.items())
        print(f"  {row.what}: {figures}", *map(_verdict, row.bars), sep="  ", flush=True)
        self.missed += [f"{part.name}, {row.what}: {b.text}" for b in row.bars if b.met is False]

    def end(self, part: Part, end: End) -> None:
        """Print and keep how a part ended."""
        self._keep({"part": part.name, "seconds": round(end.seconds, 1), "error": end.error})
        print(f"  {end.seconds:.1f} s", "" if end.error is None else f"FAILED: {end.error}")
        if end.error is not None:
            self.failures.append(f"{part.name}: {end.error.splitlines()[-1]}")

    def _keep(self, line: dict[str, Any]) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")


def _check() -> int:
    """Run the parts; return 1 if one failed or, under --check, missed a bar."""
    arguments = _arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    report = Report(arguments.out / RESULTS)
    report.file.unlink(missing_ok=True)
    setting = Setting(arguments.device, arguments.tiny)
    deadline = time.monotonic() + arguments.seconds
    for part in _wanted(arguments.only):
        print(part.name, flush=True)
        setting = _run(part, setting, deadline - time.monotonic(), report)
        if any(NO_GPU in failure for failure in report.failures):
            break
    for line in (*report.failures, *(f"missed: {bar}" for bar in report.missed)):
        print(line)
    print(f"rows in {report.file}")
    return int(bool(report.failures) or (arguments.check and bool(report.missed)))


def _run(part: Part, setting: Setting, left: float, report: Report) -> Setting:
    """Run a part in the seconds that are left; return the setting, with the ceilings if it knew."""
    if left <= 0:
        report.end(part, End(0.0, "not begun: --seconds are over"))
        return setting
    for found in run(part, setting, left if setting.tiny else min(part.seconds, left)):
        if isinstance(found, End):
            report.end(part, found)
            continue
        report.row(part, found)
        if found.what == CEILINGS:
            setting = replace(setting, ceilings=_ceilings(found))
    return setting


def _arguments() -> argparse.Namespace:
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help=f"folder of {RESULTS}")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--tiny", action="store_true", help="shapes that run in seconds, without deadlines"
    )
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed, too")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of all parts together")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="PART")
    arguments = parser.parse_args()
    if arguments.device == "cpu" and not arguments.tiny:
        parser.error("--device cpu needs --tiny; the shapes of the check are those of a GPU")
    return arguments


def _wanted(names: list[str]) -> Iterator[Part]:
    """Yield the parts asked for, after the ceilings, of which all figures are shares."""
    return (part for part in PARTS if part.name in {CEILINGS, *names})


def _ceilings(row: Row) -> Ceilings:
    flops, moved = row.figures[FLOPS], row.figures[BYTES]
    assert isinstance(flops, float)
    assert isinstance(moved, float)
    return Ceilings(flops * 1e12, moved * 1e9)


def _verdict(bar: Bar) -> str:
    word = {True: "met", False: "MISSED", None: "not judged here"}[bar.met]
    return f"[{word}: {bar.text}]"


def _shown(value: Figure) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    try:
        sys.exit(_check())
    except KeyboardInterrupt:
        sys.exit(130)
