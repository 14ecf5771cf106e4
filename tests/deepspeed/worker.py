"""A real DeepSpeed run of two ranks, for tests: trains the jobs of a JSON file one after another.

    python worker.py JOBS.json PORT

A job trains a transformers model from ``model`` (or from the universal checkpoint ``load``) for the
steps [``first``, ``save_at``), saves to ``save``, goes on to ``last`` and writes the weights as a
model directory ``result`` with the loss of every step in ``losses.json``. Batches are a function of
the step, the same as ``batch`` gives to our own ranks.
"""

import json
import multiprocessing
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers
from torch import Tensor

GLOBAL_BATCH, MICRO_BATCH, LENGTH = 8, 2, 12
ADAM: dict[str, Any] = {"lr": 3e-3, "betas": (0.9, 0.95), "eps": 1e-4}
DECAY, CLIP = 0.1, 0.5


@dataclass(frozen=True)
class Job:
    """What one engine does."""

    model: str
    stage: int
    first: int
    last: int
    result: str
    load: str | None = None
    save: str | None = None
    save_at: int | None = None
    scheduler: dict[str, Any] | None = None


def write_jobs(path: Path, jobs: list[Job]) -> Path:
    """Write the file that a worker reads."""
    path.write_text(json.dumps([asdict(job) for job in jobs]))
    return path


def tokens(step: int, vocabulary: int) -> Tensor:
    """Return the sequences of a step."""
    return torch.randint(
        vocabulary, (GLOBAL_BATCH, LENGTH), generator=torch.Generator().manual_seed(step)
    )


def main(jobs: list[Job], port: str) -> None:
    """Run every job on two ranks, forked when all is imported, which is what takes time."""
    import deepspeed
    import deepspeed.ops

    # Inference alone uses this operator, and compiling it takes minutes.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    torch.set_num_threads(1)
    fork = multiprocessing.get_context("fork")
    other = fork.Process(target=_rank, args=(1, jobs, port, deepspeed))
    other.start()
    _rank(0, jobs, port, deepspeed)
    other.join()
    sys.exit(other.exitcode)


def _rank(rank: int, jobs: list[Job], port: str, deepspeed: Any) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "DS_ACCELERATOR": "cpu"}
    for job in jobs:
        _run(job, deepspeed)
    dist.barrier()
    dist.destroy_process_group()


def _run(job: Job, deepspeed: Any) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(
        job.model, dtype=torch.float32, attn_implementation="eager"
    ).train()
    engine = deepspeed.initialize(model=model, optimizer=_adam(model), config=_config(job))[0]
    if job.load is not None:
        engine.load_checkpoint(job.load)
        _unshare_steps(engine)
    assert engine.global_steps == job.first, (engine.global_steps, job)
    losses = []
    for step in range(job.first, job.last):
        losses.append(_step(engine, step))
        if job.save_at == step + 1:
            engine.save_checkpoint(job.save)
    parameters = list(engine.module.parameters())
    with deepspeed.zero.GatheredParameters(parameters, enabled=job.stage == 3):
        if dist.get_rank() == 0:
            engine.module.save_pretrained(job.result)
            (Path(job.result) / "losses.json").write_text(json.dumps(losses))
    dist.barrier()


def _unshare_steps(engine: Any) -> None:
    """Give every sub-group of ZeRO-3 a step of its own.

    DeepSpeed 0.19.8 loads one tensor into all of them, and each adds 1 to it.
    """
    for state in engine.optimizer.optimizer.state.values():
        state["step"] = state["step"].clone()


def _adam(model: Any) -> torch.optim.AdamW:
    matrices = [each for each in model.parameters() if each.dim() > 1]
    others = [each for each in model.parameters() if each.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": DECAY},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, **ADAM)


def _config(job: Job) -> dict[str, Any]:
    config: dict[str, Any] = {
        "train_batch_size": GLOBAL_BATCH,
        "train_micro_batch_size_per_gpu": MICRO_BATCH,
        "gradient_clipping": CLIP,
        "zero_optimization": {"stage": job.stage},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    if job.load is not None:
        config["checkpoint"] = {"load_universal": True}
    if job.scheduler is not None:
        config["scheduler"] = job.scheduler
    return config


def _step(engine: Any, step: int) -> float:
    """Train one step on this rank's share of the batch; return the mean loss of all."""
    rank, world = dist.get_rank(), dist.get_world_size()
    own = tokens(step, engine.module.config.vocab_size).split(MICRO_BATCH)[rank::world]
    total = torch.zeros(())
    for part in own:
        loss = engine(input_ids=part, labels=part).loss
        engine.backward(loss)
        engine.step()
        total += loss.detach() / len(own)
    dist.all_reduce(total)
    return (total / world).item()


if __name__ == "__main__":
    main([Job(**table) for table in json.loads(Path(sys.argv[1]).read_text())], sys.argv[2])
