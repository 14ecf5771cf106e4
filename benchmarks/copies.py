"""What copies of ranks in each other's memory cost training, beside what a checkpoint costs.

Two ranks, each in a process of its own, are the two stages of a model of the demo's widths with
fewer layers, and train on random tokens. At a boundary every rank takes a copy of what it alone
holds, and the copies are exchanged while the next steps run; or every rank takes a snapshot, which
is hashed and written meanwhile. Both are repeated in turn. The *stall* is what training waits for
at the boundary, the *slow-down* the seconds that the steps beside take more than a step alone; the
*cost* is both.

Bars: the copies of a boundary cost at most half of what a checkpoint costs, and their stall is at
most 1.5 times that of a checkpoint.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from actors.calls import Answer
from actors.commands import CopyReport, StepInput
from actors.crew.over_pipes import PipeCrew
from actors.deadlines import deadlines_of
from actors.engine.meeting import Meeting
from actors.state.sources import ModelSource
from benchmarks.processors import described
from benchmarks.results import finish, options, parse
from benchmarks.run import bench_run
from moe.checkpoint.reader import Checkpoint
from moe.config.model import ModelConfig
from moe.config.run import RunConfig
from moe.planning.plan.plan import Plan, RankPlan, StagePlan
from moe.planning.plan.seats import Seat
from moe.surgery.initialise import initialise

COST_BAR, STALL_BAR = 0.5, 1.5
SECONDS = 600.0


@dataclass
class Boundary:
    """What one boundary cost: seconds of the stall, of what went on beside, of the slow-down."""

    stall: float
    beside: float
    slower: float


class Training:
    """Two ranks that train."""

    def __init__(self, model: Path, run: RunConfig, length: int) -> None:
        self._config, self._run, self._length = Checkpoint.open(model).config, run, length
        plan = two_stages(self._config)
        self.seats = plan.seats
        self.done = 0
        self.sent: list[int] = [0]
        self.meeting = Meeting(run.name, plan, PipeCrew.start(plan.seats), deadlines_of(run))
        self.meeting.start(ModelSource(model), length, run)

    def step(self) -> float:
        """Run a step on random tokens; return its seconds."""
        started = time.perf_counter()
        size = (self._run.train.global_batch, self._length)
        random = np.random.default_rng(self.done)
        tokens = random.integers(0, self._config.vocab_size, size, dtype=np.int32)
        self._all("train_step", StepInput(self.done, tokens, tokens, tokens.size))
        self.done += 1
        return time.perf_counter() - started

    def copies(self) -> tuple[str, Callable[[], Mapping[Seat, Answer]]]:
        """Return the command to copy, and what has the copies exchanged."""
        seats = list(self.seats)
        holders = dict(zip(seats, reversed(seats), strict=True))
        return "copy", lambda: self.meeting.tell("exchange_copies", self.done, holders)

    def checkpoint(self, to: Path) -> tuple[str, Callable[[], Mapping[Seat, Answer]]]:
        """Return the command for a snapshot, and what has it written."""
        to.mkdir()
        return "snapshot", lambda: self.meeting.tell("write", to, self.done)

    def boundary(
        self, command: str, beside: Callable[[], Mapping[Seat, Answer]], alone: float
    ) -> Boundary:
        """Have every rank obey, then step until what runs beside is done."""
        started = time.perf_counter()
        self._all(command, self.done)
        stall = time.perf_counter() - started
        answers = beside()
        ended = [started]
        for answer in answers.values():
            answer.add_done_callback(lambda _: ended.append(time.perf_counter()))
        steps = [self.step()]
        while not all(answer.done() for answer in answers.values()):
            steps.append(self.step())
        reports = self.meeting.gather(answers, "what runs beside", SECONDS)
        self.sent += [each.sent for each in reports if isinstance(each, CopyReport)]
        return Boundary(stall, max(ended) - started - stall, sum(steps) - alone * len(steps))

    def _all(self, command: str, argument: object) -> None:
        self.meeting.gather(self.meeting.tell(command, argument), command, SECONDS)


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as folder:
        model = Path(folder) / "model"
        config = replace(Checkpoint.open(arguments.model).config, layers=arguments.layers)
        initialise(config, model, seed=0)
        run = bench_run(model, arguments.data, steps=10**6, global_batch=arguments.sequences)
        training = Training(model, run, arguments.length)
        try:
            alone, found = _measured(training, Path(folder), arguments.repeats)
            size = max(training.sent)
        finally:
            training.meeting.end()
    _finish(arguments, alone, found, size)


def two_stages(config: ModelConfig, first: int | None = None) -> Plan:
    """Return a plan of two ranks of one thread, the first with half of the layers or so many."""
    ranks = (
        RankPlan(
            ("here",), (0, config.kv_heads), (0, config.ffn_size), tuple(range(config.experts)), 1
        ),
    )
    cut = config.layers // 2 if first is None else first
    stages = (StagePlan((0, cut), ranks), StagePlan((cut, config.layers), ranks))
    return Plan(config.summary(), stages)


def _measured(
    training: Training, folder: Path, repeats: int
) -> tuple[float, dict[str, list[Boundary]]]:
    """Return the seconds of a step alone, and what boundaries cost, by what was done there."""
    training.boundary(*training.copies(), 0.0)
    training.boundary(*training.copies(), 0.0)
    training.boundary(*training.checkpoint(folder / "first"), 0.0)
    shutil.rmtree(folder / "first")
    found: dict[str, list[Boundary]] = {"copies": [], "checkpoint": []}
    alone: list[float] = []
    for _ in range(repeats):
        alone += [training.step() for _ in range(2)]
        found["copies"].append(training.boundary(*training.copies(), median(alone)))
        alone += [training.step() for _ in range(2)]
        to = folder / "checkpoint"
        found["checkpoint"].append(training.boundary(*training.checkpoint(to), median(alone)))
        shutil.rmtree(to)
    return median(alone), found


def _finish(
    arguments: argparse.Namespace, alone: float, found: Mapping[str, list[Boundary]], size: int
) -> None:
    middle = {
        what: Boundary(*(median(getattr(each, name) for each in own) for name in _NAMES))
        for what, own in found.items()
    }
    rows: list[dict[str, float | str]] = [
        {
            "what": what,
            "stall s": each.stall,
            "beside s": each.beside,
            "slow-down s": each.slower,
            "cost s": each.stall + max(each.slower, 0.0),
            "of a step": (each.stall + max(each.slower, 0.0)) / alone,
        }
        for what, each in middle.items()
    ]
    copies, checkpoint = middle["copies"], middle["checkpoint"]
    missed = []
    costs = [float(row["cost s"]) for row in rows]
    if costs[0] > COST_BAR * costs[1]:
        missed.append(f"copies cost {costs[0] / costs[1]:.2f} of a checkpoint, bar {COST_BAR}")
    if copies.stall > STALL_BAR * checkpoint.stall:
        ratio = copies.stall / checkpoint.stall
        missed.append(f"copies stall {ratio:.2f} of a checkpoint's stall, bar {STALL_BAR}")
    title = (
        f"Copies of {size / 1e6:.3g} MB a rank, two ranks of one thread, steps of {alone:.2f} s on "
        f"{arguments.sequences * arguments.length} tokens; {described()}"
    )
    finish(arguments, title, rows, missed)


def _arguments() -> argparse.Namespace:
    parser = options(__doc__ or "")
    parser.add_argument("--directory", type=Path, help="disk to write to; default that of /tmp")
    parser.add_argument("--layers", type=int, default=6, help="of the model")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sequences", type=int, default=4, help="of a step")
    parser.add_argument("--length", type=int, default=256, help="of a sequence")
    return parse(parser, layers=2, repeats=1, sequences=2, length=16)


_NAMES = ("stall", "beside", "slower")

if __name__ == "__main__":
    main()
