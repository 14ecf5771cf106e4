"""What answering from a living run costs its training: one run, one server, phases in turns.

    alone  the driver looks at its board and does steps
    idle   a server is attached and has nothing to answer
    asked  the server has more to answer than it has time for

The steps themselves are timed, and apart from them what the driver does between two of them for the
server (its turn). Bars, medians of all steps of a phase over those alone: a step and its turn take
at most 1 % longer while the server is idle; a step without its turn takes at most 10 % longer while
the server is asked, and turns are at most a fifth of the time, plus one batch.
"""

import argparse
import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any, NamedTuple

import ray

from actors.commands import Answering
from actors.engine import over_ray
from actors.engine.training import TrainingEngine
from actors.state.sources import ModelSource
from benchmarks.results import finish, options, parse
from benchmarks.run import bench_run
from cluster.probe import probe
from cluster.session import session
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.training import SaveContext
from moe.config.run import RunConfig
from moe.config.sampling import Sampling
from moe.planning.search.make import make_plan
from pipelines.corpus.shards import TokenShards
from pipelines.planning.run_work import workload
from pipelines.serving.batching.batcher import Room
from pipelines.serving.generation.generation import Generation, Job
from pipelines.serving.generation.scheduler import Scheduler
from pipelines.serving.limits import Limits
from pipelines.serving.living.attaching import attach
from pipelines.serving.living.terms import Conditions
from pipelines.serving.text.detokenize import Detokenizer
from pipelines.training.batches import batches
from pipelines.training.board import open_board, orders
from pipelines.training.lending import Lending

BAR_IDLE, BAR_ASKED, SHARE = 0.01, 0.10, 0.2
WARM = 2
"""Steps before the first phase: buffers and kernels are made in them."""
MOST = 10**6
"""Steps of the run; the bench ends it long before."""
PHASES = ("alone", "idle", "asked")
STREAMS = 4
BLOCKS = 256
TOKENS = 64
"""Of each prompt, and of each answer."""


class Step(NamedTuple):
    """Seconds of a step, and of the turn before it."""

    step: float
    turn: float


class Asked:
    """A server in a process of its own, which is kept busy or left alone."""

    def __init__(self, run: str) -> None:
        self._tokens = 0
        self._busy = asyncio.Event()
        engines = [attach(run, Conditions(Answering(BLOCKS), SHARE), 600.0)]
        stages = engines[0].welcome.standing.stages
        room = Room(BLOCKS, STREAMS).over(stages)
        self._scheduler = Scheduler(engines.pop, room, Limits(running=STREAMS))

    async def live(self) -> None:
        """Answer, one request after the other on each stream, for ever."""
        await asyncio.gather(*(self._stream(number) for number in range(STREAMS)))

    async def ask(self, busy: bool) -> int:
        """Ask the server more than it can do, or nothing; return the tokens so far."""
        if busy:
            self._busy.set()
        else:
            self._busy.clear()
        return self._tokens

    async def _stream(self, number: int) -> None:
        while True:
            await self._busy.wait()
            prompt = tuple((number * 7 + at) % 97 for at in range(TOKENS))
            job = Job(prompt, TOKENS, Sampling())
            (stream,) = self._scheduler.submit([Generation(job, _silent())])
            async for delta in stream:
                self._tokens += len(delta.tokens)
                if not self._busy.is_set():
                    stream.cancel()
                    break


class Bench:
    """A run that is driven step by step, and its server."""

    def __init__(self, run: RunConfig, engine: TrainingEngine, board: Any) -> None:
        self._engine = engine
        self._board = board
        self._steps = batches(run, _shards(run), 0)
        context = SaveContext(Checkpoint.open(run.model.path).config, run, run.model.path, "")
        self._lending = Lending(context)

    def step(self) -> Step:
        """Be between two steps as a driver is, and do one."""
        batch = next(self._steps)
        began = time.perf_counter()
        told = orders(self._board)
        self._lending.between(self._engine, batch.step, told.asking)
        turned = time.perf_counter()
        self._engine.train_step(batch)
        return Step(time.perf_counter() - turned, turned - began)

    def until(self, answer: Any) -> Any:
        """Train until an actor has answered."""
        while not ray.wait([answer], timeout=0)[0]:
            self.step()
        return ray.get(answer)


def main() -> None:
    """Measure and print."""
    parser = options(__doc__ or "")
    parser.add_argument("--steps", type=int, default=6, help="steps of a phase")
    parser.add_argument("--turns", type=int, default=3, help="times that every phase is played")
    parser.add_argument("--micro-batches", type=int, default=4)
    arguments = parse(parser, steps=2, turns=1, micro_batches=2)
    steps, tokens, seconds = _measured(arguments)
    alone = median(each.step + each.turn for each in steps["alone"])
    bare = median(each.step for each in steps["alone"])
    idle = median(each.step + each.turn for each in steps["idle"]) / alone
    asked = median(each.step for each in steps["asked"]) / bare
    whole = sum(sum(each) for each in steps["asked"])
    share = sum(each.turn for each in steps["asked"]) / whole
    over = max(each.turn for each in steps["asked"]) / whole
    rows = [
        {"what": "a step alone, s", "value": bare},
        {"what": "a step and its turn, idle / alone", "value": idle},
        {"what": "a step without its turn, asked / alone", "value": asked},
        {"what": "turns, part of the time while asked", "value": share},
        {"what": "answered tokens a second of all time while asked", "value": tokens / seconds},
        {"what": "answered tokens a second of turns", "value": tokens / (share * seconds)},
    ]
    missed = [] if idle <= 1 + BAR_IDLE else [f"idle costs {idle - 1:.1%}, bar {BAR_IDLE:.0%}"]
    if asked > 1 + BAR_ASKED:
        missed.append(f"steps beside turns take {asked - 1:.1%} longer, bar {BAR_ASKED:.0%}")
    if share > SHARE + over:
        missed.append(f"turns take {share:.0%} of the time, bar {SHARE:.0%}")
    missed += [] if tokens else ["nothing was answered"]
    finish(arguments, "Answering from a living run, SmolLM2", rows, missed)


def _measured(arguments: argparse.Namespace) -> tuple[dict[str, list[Step]], int, float]:
    """Return the steps of each phase, and the tokens and the seconds of those that are asked."""
    steps: dict[str, list[Step]] = {name: [] for name in PHASES}
    tokens, seconds = 0, 0.0
    with _bench(arguments) as (bench, run):
        for _ in range(WARM):
            bench.step()
        for _ in range(arguments.turns):
            steps["alone"] += [bench.step() for _ in range(arguments.steps)]
            server: Any = ray.remote(Asked).options(num_cpus=0).remote(run.name)
            before = bench.until(server.ask.remote(False))
            server.live.remote()
            bench.step()
            steps["idle"] += [bench.step() for _ in range(arguments.steps)]
            ray.get(server.ask.remote(True))
            bench.step()
            began = time.perf_counter()
            steps["asked"] += [bench.step() for _ in range(arguments.steps)]
            seconds += time.perf_counter() - began
            tokens += ray.get(server.ask.remote(False)) - before
            ray.kill(server)
    return steps, tokens, seconds


@contextmanager
def _bench(arguments: argparse.Namespace) -> Iterator[tuple[Bench, RunConfig]]:
    micro_batches = arguments.micro_batches
    run = bench_run(arguments.model, arguments.data, steps=MOST, global_batch=micro_batches)
    config, shards = Checkpoint.open(run.model.path).config, _shards(run)
    with session("local", cpus=4), open_board(run.name) as board:
        devices = probe(1)
        plan = make_plan(config, devices, 2, 1, workload(run, shards.sequence_length, devices))
        source = ModelSource(run.model.path.absolute())
        engine = over_ray.train(run, plan, source, shards.sequence_length)
        try:
            yield Bench(run, engine, board), run
        finally:
            engine.shutdown()


def _shards(run: RunConfig) -> TokenShards:
    return TokenShards.open(run.data.path, "train")


def _silent() -> Detokenizer:
    """Return a detokenizer that gives every token a character."""
    return Detokenizer(lambda tokens: "x" * len(tokens), lambda _: False)


if __name__ == "__main__":
    main()
