"""A mixture of experts that grows at half time, beside the large one trained from the start.

All runs see the same tokens in the same order, with the same learning rates. The small model trains
half of the steps; then its checkpoint is expanded to twice the experts in each of the ways, with
AdamW's moments, and every one trains the other half. The text is the standard library of the Python
that runs this, as bytes. ``--plot FILE`` draws held-out losses over tokens. It has no bar.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from actors.state.sources import CheckpointSource, ModelSource, Source
from benchmarks.material import byte_tokenizer
from benchmarks.results import finish, options, parse
from benchmarks.solo import FILES, LENGTH, SMALL, THREADS, held_out, solo_run, write_tokens
from moe.checkpoint.reader import Checkpoint
from moe.config.model import MoeConfig
from moe.surgery.growing.moments import expand_checkpoint
from moe.surgery.growing.options import ExpandOptions
from moe.surgery.initialise import initialise
from pipelines.corpus.shards import TokenShards
from pipelines.models.text import short_texts_from
from pipelines.study.solo import Solo
from pipelines.training.batches import batches

EXPERTS, TOP_K, EXPERT_SIZE = 4, 2, 96
WAYS = {
    "grown, copies with noise": {},
    "grown by load": {"by": "load"},
    "grown by gradient": {"by": "gradient"},
    "grown, copies apart": {"apart": True},
    "grown, function kept": {"keep": "function"},
}


@dataclass(frozen=True, slots=True)
class Stretch:
    """A run, or a part of it: where it begins and what it left at the end."""

    what: str
    losses: dict[int, float]
    seconds: float
    active: int


def main() -> None:
    """Train, grow, train on, compare."""
    parser = options(__doc__ or "", material=False)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--every", type=int, default=50, help="steps between evaluations")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--files", type=int, default=FILES, help="modules of the library")
    parser.add_argument("--plot", type=Path)
    smallest = ["grown, function kept"]
    arguments = parse(parser, steps=4, every=2, files=5, ways=smallest)
    with TemporaryDirectory() as name:
        found = list(_all(arguments, Path(name)))
    tokens = arguments.steps * 8 * LENGTH
    rows = [_row(stretch, arguments.steps) for stretch in found]
    if arguments.plot:
        arguments.plot.write_text(_drawn(found, arguments.steps))
    finish(arguments, f"Growing from {EXPERTS} to {2 * EXPERTS} experts, {tokens} tokens", rows, [])


def _all(arguments: argparse.Namespace, folder: Path) -> Iterator[Stretch]:
    """Yield every run, the first from the start, the others from half of the small one."""
    small, large = _models(folder, arguments.files)
    data, steps = folder / "tokens", arguments.steps
    half, training = folder / "half", _Training(folder, steps, arguments.every)
    yield training.run("large from the start", ModelSource(large), large, (0, steps))
    begun = training.run("small", ModelSource(small), small, (0, steps // 2), half)
    rest = (steps // 2, steps)
    on = training.run("small", CheckpointSource(half), half, rest)
    yield replace(on, losses=begun.losses | on.losses, seconds=begun.seconds + on.seconds)
    for number, way in enumerate(arguments.ways):
        grown = folder / f"grown{number}"
        asked = ExpandOptions(2 * EXPERTS, **WAYS[way])  # type: ignore[arg-type]
        expand_checkpoint(half, grown, asked, short_texts_from(half, data))
        on = training.run(way, CheckpointSource(grown), grown, rest)
        yield replace(on, losses=begun.losses | on.losses, seconds=begun.seconds + on.seconds)


def _models(folder: Path, files: int) -> tuple[Path, Path]:
    """Write a small and a large model, and the tokens of the standard library."""
    small = MoeConfig(EXPERTS, TOP_K, EXPERT_SIZE)
    found = {"small": small, "large": replace(small, experts=2 * EXPERTS)}
    for name, moe in found.items():
        initialise(replace(SMALL, family="mixtral", moe=moe), folder / name, seed=0)
        byte_tokenizer().save(str(folder / name / "tokenizer.json"))
    write_tokens(folder / "small", folder / "tokens", files)
    return folder / "small", folder / "large"


class _Training:
    """Trains parts of runs with one rank, in a folder."""

    def __init__(self, folder: Path, steps: int, every: int) -> None:
        self._folder = folder
        self._steps = steps
        self._every = every

    def run(
        self, what: str, source: Source, model: Path, span: tuple[int, int], to: Path | None = None
    ) -> Stretch:
        """Train over a span of steps; ``to`` is where its last state is written."""
        run = solo_run(model, self._folder / "tokens", self._steps)
        losses = {span[0]: held_out(model, run).loss}
        shards, spent = TokenShards.open(run.data.path, "train"), 0.0
        solo = Solo(run, source, LENGTH, THREADS)
        for batch in islice(batches(run, shards, span[0]), span[1] - span[0]):
            started = time.perf_counter()
            solo.step(batch)
            spent += time.perf_counter() - started
            done = batch.step + 1
            if done % self._every == 0 or done == span[1]:
                kept = self._folder / f"now-{what}-{done}"
                kept = to if to is not None and done == span[1] else kept
                solo.save(kept, done)
                losses[done] = held_out(kept, run).loss
        solo.close()
        moe = Checkpoint.open(model).config.moe
        assert moe is not None
        return Stretch(what, losses, spent, moe.top_k)


def _row(stretch: Stretch, steps: int) -> dict[str, Any]:
    return {
        "what": stretch.what,
        "experts a token": stretch.active,
        "held-out loss, half": stretch.losses[steps // 2],
        "held-out loss, end": stretch.losses[steps],
        "training s": stretch.seconds,
    }


WIDTH, HEIGHT, EDGE = 640, 340, 46
COLOURS = ("#1f77b4", "#7f7f7f", "#d62728", "#ff7f0e", "#9467bd", "#2ca02c", "#8c564b")


def _drawn(found: list[Stretch], steps: int) -> str:
    """Return the held-out losses after the first tenth of the steps as SVG."""
    shown = [
        {step: loss for step, loss in each.losses.items() if step >= steps // 10} for each in found
    ]
    values = [loss for curve in shown for loss in curve.values()]
    low, high = min(values), max(values)

    def x(step: float) -> float:
        return EDGE + step * (WIDTH - 2 * EDGE) / steps

    def y(loss: float) -> float:
        return HEIGHT - EDGE - (loss - low) * (HEIGHT - 2 * EDGE) / max(high - low, 1e-9)

    half = x(steps // 2)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<line x1="{half:.1f}" x2="{half:.1f}" y1="{EDGE / 2}" y2="{HEIGHT - EDGE}" '
        'stroke="grey" stroke-dasharray="4 4"/>',
    ]
    for number, (each, curve) in enumerate(zip(found, shown, strict=True)):
        points = " ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in curve.items())
        lines.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS[number]}"/>')
        place = f'x="{WIDTH - EDGE - 190}" y="{EDGE + 16 * number}"'
        lines.append(f'<text {place} fill="{COLOURS[number]}">{each.what}</text>')
    for value in (low, high):
        lines.append(f'<text x="4" y="{y(value) + 4:.1f}">{value:.2f}</text>')
    for step in (steps // 2, steps):
        lines.append(f'<text x="{x(step) - 10:.1f}" y="{HEIGHT - EDGE + 18}">{step}</text>')
    lines.append(f'<text x="{WIDTH / 2 - 14}" y="{HEIGHT - 8}">step</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


if __name__ == "__main__":
    main()
