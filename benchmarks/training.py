"""Training steps of one process against two stage actors, interleaved, on the same batches.

Bar: the losses agree to 1e-4 relative. Speed has no bar yet: on two cores the pipeline can at best
equal one process with two threads, less its bubble.
"""

import argparse
import os
import time
from statistics import median

import torch

from actors.commands import StepInput
from actors.engine import over_ray
from actors.state.sources import ModelSource
from benchmarks.results import finish, options, parse
from benchmarks.run import bench_run
from cluster.probe import probe
from cluster.session import session
from moe.checkpoint.reader import Checkpoint
from moe.config.run import RunConfig
from moe.nn.build import build
from moe.nn.decoder import Decoder, Pass
from moe.nn.loss import cross_entropy_sum
from moe.planning.search.make import make_plan
from pipelines.corpus.shards import TokenShards
from pipelines.planning.run_work import workload
from pipelines.training.batches import batches

TOLERANCE = 1e-4


class OneProcess:
    """The plain loop: forward, backward, clip, AdamW, with all threads."""

    def __init__(self, decoder: Decoder, run: RunConfig) -> None:
        self._decoder = decoder
        self._run = run
        train = run.train
        self._adam = torch.optim.AdamW(
            decoder.parameters(), lr=train.learning_rate, weight_decay=0.0, fused=True
        )

    def step(self, batch: StepInput) -> float:
        """Return the loss of one step."""
        assert batch.tokens is not None
        assert batch.labels is not None
        self._adam.zero_grad()
        total = 0.0
        for tokens, labels in zip(batch.tokens, batch.labels, strict=True):
            output = self._decoder(torch.from_numpy(tokens[None]), Pass()).values
            loss = cross_entropy_sum(output, torch.from_numpy(labels[None])) / batch.label_count
            torch.autograd.backward(loss)
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(self._decoder.parameters(), self._run.train.clip_norm)
        self._adam.step()
        return total


def main() -> None:
    """Measure and print."""
    parser = options(__doc__ or "")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--micro-batches", type=int, default=8)
    arguments = parse(parser, steps=2, micro_batches=2)
    cores = os.cpu_count() or 2
    torch.set_num_threads(cores)
    run = bench_run(
        arguments.model, arguments.data, steps=arguments.steps, global_batch=arguments.micro_batches
    )
    config = Checkpoint.open(run.model.path).config
    shards = TokenShards.open(run.data.path, "train")
    one = OneProcess(build(config, Checkpoint.open(run.model.path).read), run)
    seconds: dict[str, list[float]] = {"one": [], "two": []}
    gaps = []
    with session("local", cpus=max(cores, 2)):
        devices = probe(max(cores // 2, 1))
        wanted = workload(run, shards.sequence_length, devices)
        plan = make_plan(config, devices, 2, 1, wanted)
        engine = over_ray.train(
            run, plan, ModelSource(run.model.path.absolute()), shards.sequence_length
        )
        try:
            for batch in batches(run, shards, 0):
                started = time.perf_counter()
                loss = one.step(batch)
                seconds["one"].append(time.perf_counter() - started)
                report = engine.train_step(batch)
                seconds["two"].append(report.seconds)
                gaps.append(abs(report.loss - loss) / loss)
        finally:
            engine.shutdown()
    _finish(arguments, run, shards.sequence_length, seconds, gaps)


def _finish(
    arguments: argparse.Namespace,
    run: RunConfig,
    length: int,
    seconds: dict[str, list[float]],
    gaps: list[float],
) -> None:
    tokens = run.train.global_batch * length
    middle = {name: median(values[1:]) for name, values in seconds.items()}
    ratio = median(o / t for o, t in zip(seconds["one"][1:], seconds["two"][1:], strict=True))
    rows = [
        {
            "what": "one process, all cores",
            "step s": middle["one"],
            "tok/s": tokens / middle["one"],
        },
        {"what": "two stage actors", "step s": middle["two"], "tok/s": tokens / middle["two"]},
        {"what": "actors / process, speed", "step s": ratio, "tok/s": ratio},
        {"what": "largest relative loss gap", "step s": max(gaps), "tok/s": max(gaps)},
    ]
    missed = [f"loss gap {max(gaps):.1e} > {TOLERANCE:g}"] if max(gaps) > TOLERANCE else []
    finish(arguments, "Training step, SmolLM2 MoE", rows, missed)


if __name__ == "__main__":
    main()
