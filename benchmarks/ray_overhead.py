"""What actors and Ray cost: the same plan stepped by the engine and under plain torchrun, in turns.

Both sets of ranks are in memory at once, so the model is the dense one of the demo; its steps are
shorter than those of the mixture, of which the cost is then the larger part.
Bar: actors take at most 2 % longer, median of the pairs; the losses are the same bits.
"""

import os
from statistics import median

from actors.engine import over_ray
from actors.state.sources import ModelSource
from benchmarks.results import DEMO, finish, options, parse
from benchmarks.run import bench_run
from benchmarks.torchrun import torchrun
from cluster.probe import probe
from cluster.session import session
from moe.checkpoint.reader import Checkpoint
from moe.planning.search.make import make_plan
from pipelines.corpus.shards import TokenShards
from pipelines.training.drive import batches
from pipelines.training.run_plan import workload

BAR = 0.02
WARM = 2
"""Steps that are not counted: buffers and kernels are made in them."""


def main() -> None:
    """Measure and print."""
    parser = options(__doc__ or "")
    parser.set_defaults(model=DEMO / "dense")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--micro-batches", type=int, default=8)
    arguments = parse(parser, steps=1, micro_batches=2)
    run = bench_run(
        arguments.model,
        arguments.data,
        steps=arguments.steps + WARM,
        global_batch=arguments.micro_batches,
    )
    config = Checkpoint.open(run.model.path).config
    shards = TokenShards.open(run.data.path, "train")
    cores = os.cpu_count() or 2
    seconds: dict[str, list[float]] = {"actors": [], "torchrun": []}
    same = True
    with session("local", cpus=max(cores, 2)):
        devices = probe(max(cores // 2, 1))
        wanted = workload(run, shards.sequence_length, devices)
        plan = make_plan(config, devices, 2, 1, wanted)
        engine = over_ray.train(
            run, plan, ModelSource(run.model.path.absolute()), shards.sequence_length
        )
        try:
            with torchrun(run, plan, shards.sequence_length) as ranks:
                for batch in batches(run, shards, 0):
                    turns = ("actors", "torchrun") if batch.step % 2 else ("torchrun", "actors")
                    losses = []
                    for turn in turns:
                        if turn == "actors":
                            report = engine.train_step(batch)
                            found = report.seconds, report.loss
                        else:
                            found = ranks.step(batch.step)
                        seconds[turn].append(found[0])
                        losses.append(found[1])
                    same &= losses[0] == losses[1]
        finally:
            engine.shutdown()
    actors, plain = (seconds[turn][WARM:] for turn in ("actors", "torchrun"))
    ratio = median(one / other for one, other in zip(actors, plain, strict=True))
    rows = [
        {"what": "two stage actors, driven by Ray", "step s": median(actors)},
        {"what": "the same ranks under torchrun", "step s": median(plain)},
        {"what": "actors / torchrun, median of pairs", "step s": ratio},
    ]
    missed = [] if ratio <= 1 + BAR else [f"actors take {ratio - 1:.1%} longer, bar {BAR:.0%}"]
    missed += [] if same else ["the losses differ"]
    finish(arguments, "Overhead of actors and Ray, SmolLM2", rows, missed)


if __name__ == "__main__":
    main()
