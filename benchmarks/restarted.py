"""Ray Train's own restart: a plain loop that trains a model in workers of Ray Train, one killed.

What a user of Ray Train writes: the whole model in each worker, gradients summed over the workers,
a checkpoint of weights and optimiser every few steps. Ray Train restarts all workers.
"""

import json
import os
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import ray.train
import torch
import torch.distributed as dist
from ray.train import Checkpoint as RayCheckpoint
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from benchmarks.hurt import RANKS, UNDISTURBED, Hurt
from moe.checkpoint.reader import Checkpoint
from moe.nn.build import build
from moe.nn.decoder import Pass
from pipelines.corpus.shards import IGNORED, TokenShards

EVERY = UNDISTURBED + 3
"""Steps from one checkpoint to the next."""
_LOOK_SECONDS = 0.02
_PATIENCE = 300.0


def restarted(model: Path, data: Path, folder: Path, sequences: int, repeats: int) -> list[Hurt]:
    """Train in workers of Ray Train on the present cluster; kill one, as often as asked."""
    settings = {"model": str(model), "data": str(data), "folder": str(folder), "rows": sequences}
    trainer = TorchTrainer(
        _work,
        train_loop_config=settings,
        scaling_config=ScalingConfig(num_workers=RANKS, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(
            name="restarted",
            storage_path=str(folder / "ray-train"),
            failure_config=FailureConfig(max_failures=repeats),
        ),
    )
    with ThreadPoolExecutor(1) as pool:
        fitting = pool.submit(trainer.fit)
        try:
            return [_killed(folder) for _ in range(repeats)]
        finally:
            _stop(folder).touch()
            fitting.result()


def _killed(folder: Path) -> Hurt:
    """Kill a worker some steps after a checkpoint; return how long nothing was trained."""
    steps = _until(folder, _due)
    pids = steps[-1]["pids"]
    struck = time.time()
    os.kill(pids[-1], signal.SIGKILL)
    again = _until(folder, lambda found: found[-1]["pids"] != pids)
    first = next(step for step in again if step["pids"] == again[-1]["pids"])
    step = median(each["seconds"] for each in steps[-UNDISTURBED:])
    lost = steps[-1]["step"] - first["step"] + 1
    return Hurt("ray train", first["ended"] - struck - step, step, lost)


def _due(steps: Sequence[dict[str, Any]]) -> bool:
    """Tell whether so many steps of the present workers follow on a checkpoint of theirs."""
    now = [step for step in steps if step["pids"] == steps[-1]["pids"]]
    return len(now) > EVERY and now[-1]["step"] % EVERY == UNDISTURBED


def _until(folder: Path, there: Any) -> list[dict[str, Any]]:
    """Return the steps so far, once they are as asked."""
    deadline, file = time.monotonic() + _PATIENCE, _steps(folder)
    while time.monotonic() < deadline:
        text = file.read_text() if file.exists() else ""
        found = [json.loads(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"]
        if found and there(found):
            return found
        time.sleep(_LOOK_SECONDS)
    raise TimeoutError(f"Ray Train did not train on within {_PATIENCE:g} s")


def _work(settings: dict[str, Any]) -> None:
    """Train until told to stop; the function that Ray Train runs in every worker."""
    torch.set_num_threads(1)
    folder, rank = Path(settings["folder"]), dist.get_rank()
    checkpoint = Checkpoint.open(Path(settings["model"]))
    decoder = build(checkpoint.config, checkpoint.read)
    adam = torch.optim.AdamW(decoder.parameters(), 1e-5, fused=True)
    shards = TokenShards.open(Path(settings["data"]), "train")
    step, pids = _restored(decoder, adam), _pids()
    while not _stop_asked(folder):
        began = time.time()
        rows = range(step * settings["rows"], (step + 1) * settings["rows"])
        batch = shards.batch([row % len(shards) for row in rows][rank :: dist.get_world_size()])
        _train(decoder, adam, torch.from_numpy(batch.tokens), torch.from_numpy(batch.labels))
        step, ended = step + 1, time.time()
        if rank == 0:
            line = {"step": step, "pids": pids, "ended": ended, "seconds": ended - began}
            with _steps(folder).open("a") as file:
                file.write(json.dumps(line) + "\n")
        if step % EVERY == 0:
            _save(decoder, adam, step)


def _train(decoder: Any, adam: torch.optim.Optimizer, tokens: Any, labels: Any) -> None:
    """Take a step on the rows of this worker, with the gradients of all."""
    adam.zero_grad(set_to_none=False)
    scale = 1.0 / max(int((labels != IGNORED).sum()), 1)
    hidden = decoder(tokens, Pass(logits=False)).values
    torch.autograd.backward(decoder.loss(hidden, labels, scale))
    for parameter in decoder.parameters():
        if parameter.grad is None:  # an expert may see no token
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad, dist.ReduceOp.SUM)
    adam.step()


def _save(decoder: Any, adam: torch.optim.Optimizer, step: int) -> None:
    """Report a checkpoint; every worker must."""
    metrics: dict[str, Any] = {"step": step}
    if dist.get_rank() > 0:
        ray.train.report(metrics)
        return
    with TemporaryDirectory() as folder:
        state = {"step": step, "decoder": decoder.state_dict(), "adam": adam.state_dict()}
        torch.save(state, Path(folder) / "state.pt")
        ray.train.report(metrics, checkpoint=RayCheckpoint.from_directory(folder))


def _restored(decoder: Any, adam: torch.optim.Optimizer) -> int:
    """Read the newest checkpoint, if there is one; return its step."""
    saved = ray.train.get_checkpoint()
    if saved is None:
        return 0
    with saved.as_directory() as folder:
        state = torch.load(Path(folder) / "state.pt")
    decoder.load_state_dict(state["decoder"])
    adam.load_state_dict(state["adam"])
    return int(state["step"])


def _pids() -> list[int]:
    """Return the process of every worker."""
    found = [0] * dist.get_world_size()
    dist.all_gather_object(found, os.getpid())
    return found


def _stop_asked(folder: Path) -> bool:
    """Tell whether to stop; all workers go on or stop together."""
    asked = torch.tensor([int(_stop(folder).exists())])
    dist.all_reduce(asked, dist.ReduceOp.MAX)
    return bool(asked.item())


def _stop(folder: Path) -> Path:
    return folder / "stop"


def _steps(folder: Path) -> Path:
    return folder / "steps.jsonl"
