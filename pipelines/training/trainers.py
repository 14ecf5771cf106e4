"""Ray Train's trainers of a run: one worker that drives actors, or several that train."""

import os
import time
from collections.abc import Callable
from typing import Any, cast

import ray
from ray.train import FailureConfig, ScalingConfig
from ray.train import RunConfig as RayRunConfig
from ray.train.torch import TorchConfig, TorchTrainer

from moe.config.run import RunConfig
from moe.errors import LaunchError
from pipelines.training.deepspeed.drive import DeepSpeedWork
from pipelines.training.deepspeed.drive import drive as drive_deepspeed
from pipelines.training.drive import drive
from pipelines.training.driver_node import START, selector
from pipelines.training.final import NoSecondTry
from pipelines.training.work import Work

WORKER_BYTES = 2**20
"""Bytes of memory that the driver reserves; it computes nothing and takes no CPU from the ranks."""


def actors_trainer(work: Work) -> TorchTrainer:
    """Return the trainer of a run: one worker, which drives the actors of all replicas."""
    return _trainer(drive, work, scaling_config(work.run), work.run.cluster.max_failures)


def scaling_config(run: RunConfig) -> ScalingConfig:
    """Return what Ray Train is told of its workers: one, on a node with the driver's labels."""
    amounts = {"CPU": 0, "memory": WORKER_BYTES}
    made: ScalingConfig = cast(Any, ScalingConfig)(  # mypy sees the older class
        num_workers=1, resources_per_worker=amounts, label_selector=selector(run)
    )
    return made


def deepspeed_trainer(work: DeepSpeedWork) -> TorchTrainer:
    """Return the trainer of a run with DeepSpeed: as many workers as replicas, each with a GPU
    where the cluster has so many, and else with ``plan.threads`` cores.

    One that is lost ends the run: the others have its part of no state. LaunchError where the
    cluster has neither.
    """
    workers, threads = work.run.plan.replicas, work.run.plan.threads
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpus = there.get("GPU", 0) >= workers
    if not gpus and there.get("CPU", 0) < workers * threads:
        raise LaunchError(
            f"plan.replicas = {workers} workers need a GPU each, or {threads} cores each "
            f"(plan.threads); the cluster has {there.get('GPU', 0):g} GPUs and "
            f"{there.get('CPU', 0):g} cores: lower one of them, or add nodes"
        )
    scaling = ScalingConfig(
        num_workers=workers, use_gpu=gpus, resources_per_worker={"CPU": threads} | _gpu(gpus)
    )
    os.environ[START] = str(work.run.cluster.launch_seconds)
    return _trainer(drive_deepspeed, work, scaling, 0)


def _trainer(
    worker: Callable[[Any], Any], work: Work | DeepSpeedWork, scaling: ScalingConfig, failures: int
) -> TorchTrainer:
    run: RunConfig = work.run
    return TorchTrainer(
        cast(Any, worker),
        train_loop_config={"work": work},
        torch_config=TorchConfig(timeout_s=int(run.cluster.step_seconds)),
        scaling_config=scaling,
        run_config=RayRunConfig(
            name=f"{run.name}-{time.strftime('%Y%m%d-%H%M%S')}",
            storage_path=str(run.checkpoint.path / ".ray-train"),
            failure_config=cast(Any, FailureConfig)(  # mypy sees the older class
                max_failures=failures, controller_failure_limit=failures
            ),
            callbacks=[cast(Any, NoSecondTry())],
        ),
    )


def _gpu(wanted: bool) -> dict[str, float]:
    return {"GPU": 1.0} if wanted else {}
