"""What actors and Ray cost: the same plan stepped by the engine and under plain torchrun, in turns.

Each arm runs alone: every turn starts its ranks from the same model, does the same steps and ends,
and while torchrun has its turn no process of Ray is alive. The daemons of Ray are so part of what
the actors cost. The model is the dense one of the demo; its steps are shorter than those of the
mixture, of which the cost is then the larger part.
Bar: actors take at most 2 % longer, median of the pairs of turns; the losses are the same bits.
"""

import os
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import psutil

from actors.engine import over_ray
from actors.state.sources import ModelSource
from benchmarks.results import DEMO, finish, options, parse
from benchmarks.run import bench_run
from benchmarks.torchrun import torchrun
from cluster.probe import probe
from cluster.session import session
from moe.checkpoint.reader import Checkpoint
from moe.config.run import RunConfig
from moe.planning.plan.plan import Plan
from moe.planning.search.make import make_plan
from pipelines.corpus.shards import TokenShards
from pipelines.planning.run_work import workload
from pipelines.training.batches import batches

BAR = 0.02
WARM = 2
"""Steps of a turn that are not counted: buffers and kernels are made in them."""
DAEMONS = ("raylet", "gcs_server")


class Turn(NamedTuple):
    """The median seconds of the counted steps, the losses of all, and the daemons of Ray alive."""

    seconds: float
    losses: tuple[float, ...]
    daemons: int


class Bench(NamedTuple):
    """What both arms run."""

    run: RunConfig
    plan: Plan
    shards: TokenShards
    cores: int

    def actors(self) -> Turn:
        """Step actors that the engine commands through a Ray of their own."""
        run, length = self.run, self.shards.sequence_length
        with session("local", cpus=max(self.cores, 2)):
            source = ModelSource(run.model.path.absolute())
            engine = over_ray.train(run, self.plan, source, length)
            try:
                reports = [engine.train_step(batch) for batch in batches(run, self.shards, 0)]
            finally:
                engine.shutdown()
            return _turn([(report.seconds, report.loss) for report in reports])

    def torchrun(self) -> Turn:
        """Step the same ranks under torchrun."""
        with torchrun(self.run, self.plan, self.shards.sequence_length) as ranks:
            return _turn([ranks.step(batch.step) for batch in batches(self.run, self.shards, 0)])


def main() -> None:
    """Measure and print."""
    parser = options(__doc__ or "")
    parser.set_defaults(model=DEMO / "dense")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--micro-batches", type=int, default=8)
    arguments = parse(parser, steps=1, turns=1, micro_batches=2)
    bench = _bench(arguments.model, arguments.data, arguments.steps, arguments.micro_batches)
    arms: dict[str, Callable[[], Turn]] = {"actors": bench.actors, "torchrun": bench.torchrun}
    turns: dict[str, list[Turn]] = {name: [] for name in arms}
    for number in range(arguments.turns):
        for name in sorted(arms, reverse=number % 2 == 1):
            turns[name].append(arms[name]())
    actors, plain = turns["actors"], turns["torchrun"]
    ratio = median(one.seconds / other.seconds for one, other in zip(actors, plain, strict=True))
    rows = [
        {"what": "two stage actors, driven by Ray", "step s": _seconds(actors)},
        {"what": "the same ranks under torchrun", "step s": _seconds(plain)},
        {"what": "actors / torchrun, median of pairs", "step s": ratio},
        {"what": "Ray daemons alive beside torchrun", "step s": max(t.daemons for t in plain)},
    ]
    missed = [] if ratio <= 1 + BAR else [f"actors take {ratio - 1:.1%} longer, bar {BAR:.0%}"]
    missed += [] if len({turn.losses for turn in actors + plain}) == 1 else ["the losses differ"]
    missed += ["torchrun shared the machine with Ray"] if any(t.daemons for t in plain) else []
    finish(arguments, "Overhead of actors and Ray, SmolLM2", rows, missed)


def _bench(model: Path, data: Path, steps: int, micro_batches: int) -> Bench:
    run = bench_run(model, data, steps=steps + WARM, global_batch=micro_batches)
    config = Checkpoint.open(run.model.path).config
    shards, cores = TokenShards.open(run.data.path, "train"), os.cpu_count() or 2
    with session("local", cpus=max(cores, 2)):
        devices = probe(max(cores // 2, 1))
    plan = make_plan(config, devices, 2, 1, workload(run, shards.sequence_length, devices))
    return Bench(run, plan, shards, cores)


def _turn(steps: list[tuple[float, float]]) -> Turn:
    below = psutil.Process().children(recursive=True)
    daemons = sum(_name(process) in DAEMONS for process in below)
    counted = median(seconds for seconds, _ in steps[WARM:])
    return Turn(counted, tuple(loss for _, loss in steps), daemons)


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


def _seconds(turns: list[Turn]) -> float:
    return median(turn.seconds for turn in turns)


if __name__ == "__main__":
    main()
