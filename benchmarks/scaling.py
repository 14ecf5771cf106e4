"""Two actors of one thread against one of two threads: as stages, as a gang, as replicas.

Both do the same global batches in turns; of the dense model, because two of the MoE do not fit
24 GiB. On two cores nothing can be faster than twice one thread, and one process has both cores
already: what is measured is what each way of splitting costs.
Bar: the losses agree to 1e-4. Speeds have no bar.
"""

import os
from statistics import median

from actors.engine import over_ray
from actors.engine.training import TrainingEngine
from actors.state.sources import ModelSource
from benchmarks.results import DEMO, finish, options, parse
from benchmarks.run import bench_run
from cluster.probe import probe
from cluster.session import session
from moe.checkpoint.reader import Checkpoint
from moe.config.model import ModelConfig
from moe.config.run import RunConfig
from moe.planning.plan.plan import Plan
from moe.planning.search.make import make_replicas
from moe.planning.search.pins import Pins
from pipelines.corpus.shards import TokenShards
from pipelines.planning.run_work import workload
from pipelines.training.batches import batches

WAYS = {"one": (1, 1, 1), "pipe": (2, 1, 1), "gang": (1, 2, 1), "data": (1, 1, 2)}
"""Stages, ranks of a gang, replicas."""

TOLERANCE = 1e-4
WARM = 1


def main() -> None:
    """Measure and print."""
    parser = options(__doc__ or "")
    parser.set_defaults(model=DEMO / "dense")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--micro-batches", type=int, default=8)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS)[1:], default=list(WAYS)[1:])
    arguments = parse(parser, steps=1, micro_batches=2, ways=["pipe"])
    run = bench_run(
        arguments.model,
        arguments.data,
        steps=arguments.steps + WARM,
        global_batch=arguments.micro_batches,
    )
    config = Checkpoint.open(run.model.path).config
    shards = TokenShards.open(run.data.path, "train")
    cores = max(os.cpu_count() or 2, 2)
    rows, missed = [], []
    for way in arguments.ways:
        with session("local", cpus=2 * cores):
            plans = {name: _plan(config, run, shards, name, cores) for name in ("one", way)}
            seconds, gap = _turns(run, plans, shards)
        ratio = median(one / two for one, two in zip(seconds["one"], seconds[way], strict=True))
        rows.append(
            {
                "what": way,
                "one process s": median(seconds["one"]),
                "two actors s": median(seconds[way]),
                "speed": ratio,
                "loss gap": gap,
            }
        )
        missed += [f"{way}: loss gap {gap:.1e}"] if gap > TOLERANCE else []
    finish(arguments, f"Two actors x 1 thread against 1 x 2, {run.model.path.name}", rows, missed)


def _plan(config: ModelConfig, run: RunConfig, shards: TokenShards, way: str, cores: int) -> Plan:
    """Return a plan whose ranks have all cores of the machine between them."""
    stages, gang, replicas = WAYS[way]
    threads = cores // (stages * gang * replicas)
    pins = Pins(stages=stages, gang=gang, replicas=replicas)
    there = probe(threads)
    wanted = workload(run, shards.sequence_length, there, replicas)
    return make_replicas(config, there, pins, wanted)


def _turns(
    run: RunConfig, plans: dict[str, Plan], shards: TokenShards
) -> tuple[dict[str, list[float]], float]:
    """Return the seconds of steps taken in turns, and the largest relative difference of losses."""
    length = shards.sequence_length
    engines: dict[str, TrainingEngine] = {}
    seconds: dict[str, list[float]] = {name: [] for name in plans}
    gap = 0.0
    try:
        for name, plan in plans.items():
            named = run.model_copy(update={"name": f"{run.name}-{name}"})
            engines[name] = over_ray.train(
                named, plan, ModelSource(run.model.path.absolute()), length
            )
        for batch in batches(run, shards, 0):
            order = list(engines) if batch.step % 2 else list(engines)[::-1]
            reports = {name: engines[name].train_step(batch) for name in order}
            if batch.step >= WARM:
                for name, report in reports.items():
                    seconds[name].append(report.seconds)
            losses = [report.loss for report in reports.values()]
            gap = max(gap, abs(losses[0] - losses[1]) / losses[0])
    finally:
        for engine in engines.values():
            engine.shutdown()
    return seconds, gap


if __name__ == "__main__":
    main()
