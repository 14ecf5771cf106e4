"""Workers of runs with DeepSpeed, without Ray: two ranks that train one run file after another.

    python -m tests.deepspeed.trained JOBS.json PORT

The jobs are run files; at the end of each, the first rank writes the run's checkpoint, and beside
it ``told.json`` with the figures of every step.
"""

import json
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from actors.device import CpuDevice
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.training import SaveContext
from moe.config.run import load_run
from pipelines.corpus.inputs import fingerprint
from pipelines.corpus.shards import TokenShards
from pipelines.training.batches import batches
from pipelines.training.deepspeed.plan import plan_of_workers
from pipelines.training.deepspeed.saving import save
from pipelines.training.deepspeed.settings import settings_of
from pipelines.training.deepspeed.trainer import DeepSpeedTrainer


def main(runs: list[str], port: str) -> None:
    """Run every job on two ranks, forked when all is imported, which is what takes time."""
    import deepspeed  # noqa: F401

    torch.set_num_threads(1)
    fork = multiprocessing.get_context("fork")
    other = fork.Process(target=_rank, args=(1, runs, port))
    other.start()
    _rank(0, runs, port)
    other.join()
    sys.exit(other.exitcode)


def _rank(rank: int, runs: list[str], port: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "DS_ACCELERATOR": "cpu"}
    dist.init_process_group("gloo")
    for each in runs:
        _train(Path(each))
    dist.barrier()
    dist.destroy_process_group()


def _train(file: Path) -> None:
    run = load_run(file)
    shards = TokenShards.open(run.data.path, "train")
    trainer = DeepSpeedTrainer(run, settings_of(run).table, CpuDevice())
    reports = [trainer.step(batch) for batch in batches(run, shards, 0)]
    config = Checkpoint.open(run.model.path).config
    context = SaveContext(config, run, run.model.path, fingerprint(run.data.path))
    saved = save(trainer, context, plan_of_workers(config, run.plan))
    if saved is not None:
        told: list[dict[str, Any]] = [
            {
                "loss": each.loss,
                "norm": each.gradient_norm,
                "rate": each.learning_rate,
                "layers": {number: layer.coefficient for number, layer in each.layers.items()},
            }
            for each in reports
        ]
        (run.checkpoint.path / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), sys.argv[2])
