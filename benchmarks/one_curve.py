"""Three plans, one loss curve: training as two stages, as a gang of two, as two replicas.

Runs go through what ``raymoe train`` calls, in one Ray session. All begin with the same model and
data; then each is resumed under the plan of the next. Bar: over all steps no loss differs from that
of the first by more than 1e-4 of it.
``--plot FILE`` draws the curves.
"""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.results import finish, options, parse
from cluster.session import session
from moe.checkpoint.reader import Checkpoint
from moe.config.run import RunConfig, parse_run
from moe.planning.devices.inventory_file import save_profile
from pipelines.corpus.shards import TokenShards
from pipelines.training.beginning import Resume
from pipelines.training.recording import recorded_steps
from pipelines.training.run_plan import measured
from pipelines.training.train import train

PLANS: dict[str, dict[str, int]] = {
    "2 stages": {"stages": 2},
    "gang of 2": {"gang": 2},
    "2 replicas": {"replicas": 2},
}
TOLERANCE = 1e-4
PROFILE = "profile.toml"
COLOURS = ("#1f77b4", "#d62728", "#2ca02c")


def main() -> None:
    """Train, resume, compare."""
    parser = options(__doc__ or "")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--more", type=int, default=5, help="steps under the other plan")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--plans", nargs="+", choices=list(PLANS), default=list(PLANS))
    arguments = parse(parser, steps=2, more=1, plans=["2 replicas"])
    names, cores = arguments.plans, max(os.cpu_count() or 2, 2)
    with TemporaryDirectory() as folder, session("local", cpus=cores):
        _keep_profile(arguments, Path(folder))
        for name in names:
            _train(arguments, Path(folder), name, PLANS[name], arguments.steps)
        for name in names:
            steps = arguments.steps + arguments.more
            _train(arguments, Path(folder), name, _next_plan(name), steps, "always")
        curves = {name: _losses(Path(folder) / name) for name in names}
    gaps = [
        abs(loss - first) / first
        for curve in curves.values()
        for loss, first in zip(curve, curves[names[0]], strict=True)
    ]
    rows = [
        {"what": f"step {step}", **{name: curves[name][step - 1] for name in names}}
        for step in range(1, arguments.steps + arguments.more + 1)
    ]
    rows.append({"what": "largest gap", **{name: max(gaps) for name in names}})
    if arguments.plot:
        arguments.plot.write_text(_drawn(curves, arguments.steps))
    missed = [f"losses differ by {max(gaps):.1e}"] if max(gaps) > TOLERANCE else []
    title = "One curve under these plans, each then resumed under the next"
    finish(arguments, title, rows, missed, digits=7)


def _next_plan(name: str) -> dict[str, int]:
    """Return the plan under which a run is resumed; that of the first follows the last."""
    all_names = list(PLANS)
    return PLANS[all_names[(all_names.index(name) + 1) % len(all_names)]]


def _keep_profile(arguments: argparse.Namespace, folder: Path) -> None:
    """Probe the machine once, for the plans of all runs."""
    run = _run(arguments, folder, "probe", {}, arguments.steps)
    length = TokenShards.open(run.data.path, "train").sequence_length
    found = measured(run, Checkpoint.open(run.model.path).config, length)
    save_profile(found.profiles, found.links, folder / PROFILE)


def _train(
    arguments: argparse.Namespace,
    folder: Path,
    name: str,
    plan: dict[str, int],
    steps: int,
    resume: Resume = "never",
) -> None:
    """Train a run to so many steps."""
    profiled: dict[str, int | str] = {**plan, "profile": str(folder / PROFILE)}
    run = _run(arguments, folder, name, profiled, steps)
    train(run, resume, lambda plan, joined: None, lambda report: None)


def _run(
    arguments: argparse.Namespace,
    folder: Path,
    name: str,
    plan: Mapping[str, int | str],
    steps: int,
) -> RunConfig:
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
    }
    return parse_run(table, "the benchmark")


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
