"""Three plans, one loss curve: ``raymoe train`` with two stages, a gang of two, two replicas.

All begin with the same model and data; then each is resumed under the plan of the next. Bar: over
all steps no loss differs from that of the first by more than 1e-4 of it.
``--plot FILE`` draws the curves.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tomli_w

from benchmarks.results import finish, options, parse
from pipelines.training.recording import recorded_steps

PLANS: dict[str, dict[str, int]] = {
    "2 stages": {"stages": 2},
    "gang of 2": {"gang": 2},
    "2 replicas": {"replicas": 2},
}
TOLERANCE = 1e-4
COLOURS = ("#1f77b4", "#d62728", "#2ca02c")


def main() -> None:
    """Train, resume, compare."""
    parser = options(__doc__ or "")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--more", type=int, default=5, help="steps under the other plan")
    parser.add_argument("--plot", type=Path)
    arguments = parse(parser)
    names = list(PLANS)
    with TemporaryDirectory() as folder:
        for name in names:
            _train(arguments, Path(folder), name, PLANS[name], arguments.steps)
        for name, other in zip(names, [*names[1:], names[0]], strict=True):
            steps = arguments.steps + arguments.more
            _train(arguments, Path(folder), name, PLANS[other], steps, "--resume")
        curves = {name: _losses(Path(folder) / name) for name in names}
    gaps = [
        abs(loss - first) / first
        for curve in curves.values()
        for loss, first in zip(curve, curves[names[0]], strict=True)
    ]
    rows = [
        {"what": f"step {step}", **{name: f"{curves[name][step - 1]:.6f}" for name in names}}
        for step in range(1, arguments.steps + arguments.more + 1)
    ]
    rows.append({"what": "largest gap", **{name: f"{max(gaps):.1e}" for name in names}})
    if arguments.plot:
        arguments.plot.write_text(_drawn(curves, arguments.steps))
    missed = [f"losses differ by {max(gaps):.1e}"] if max(gaps) > TOLERANCE else []
    finish(arguments, "One curve under three plans, then under each other's", rows, missed)


def _train(
    arguments: argparse.Namespace,
    folder: Path,
    name: str,
    plan: dict[str, int],
    steps: int,
    *words: str,
) -> None:
    """Let the command line train a run to so many steps."""
    table: dict[str, Any] = {
        "name": "one-curve",
        "model": {"path": str(arguments.model.absolute())},
        "data": {"path": str(arguments.data.absolute())},
        "train": {
            "steps": steps,
            "global_batch": 4,
            "learning_rate": 2e-5,
            "min_learning_rate": 2e-5,
            "warmup_steps": 2,
        },
        "plan": plan,
        "checkpoint": {"path": str(folder / name)},
        "cluster": {"cpus": max(os.cpu_count() or 2, 2)},
    }
    file = folder / f"{name}.toml"
    file.write_text(tomli_w.dumps(table))
    command = [sys.executable, "-m", "pipelines.entry", "train", str(file), *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _losses(folder: Path) -> list[float]:
    return [record["loss"] for record in recorded_steps(folder)]


def _drawn(curves: dict[str, list[float]], changed: int) -> str:
    """Return the curves as SVG, each a little below the one before so that all can be seen."""
    width, height, edge = 640, 300, 46
    low = min(map(min, curves.values()))
    high = max(map(max, curves.values()))
    count = len(next(iter(curves.values())))

    def x(step: float) -> float:
        return edge + (step - 1) * (width - 2 * edge) / max(count - 1, 1)

    def y(loss: float) -> float:
        return height - edge - (loss - low) * (height - 2 * edge) / max(high - low, 1e-9)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<line x1="{x(changed + 0.5):.1f}" x2="{x(changed + 0.5):.1f}" y1="{edge / 2}" '
        f'y2="{height - edge}" stroke="grey" stroke-dasharray="4 4"/>',
        f'<text x="{x(changed + 0.6):.1f}" y="{edge / 2 + 10}" fill="grey">'
        "each under the plan of the next</text>",
    ]
    for number, (name, curve) in enumerate(curves.items()):
        points = " ".join(
            f"{x(step):.1f},{y(loss) + 3 * number:.1f}" for step, loss in enumerate(curve, 1)
        )
        colour = COLOURS[number]
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}"/>')
        lines.append(
            f'<text x="{width - 2 * edge - 60}" y="{edge + 40 + 16 * number}" fill="{colour}">'
            f"{name} (drawn {3 * number} pixels lower)</text>"
        )
    for value in (low, high):
        lines.append(f'<text x="4" y="{y(value) + 4:.1f}">{value:.3f}</text>')
    for step in (1, changed, count):
        lines.append(f'<text x="{x(step) - 4:.1f}" y="{height - edge + 18}">{step}</text>')
    lines.append(f'<text x="{width / 2 - 14}" y="{height - 8}">step</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


if __name__ == "__main__":
    main()
