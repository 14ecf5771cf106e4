"""A plan as Kubernetes objects: a RayJob that trains, or a RayService that serves."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from actors.step.replicas import check_step
from cluster.kuberay.deployment import Deployment
from cluster.kuberay.objects import dump, rayjob, rayservice
from moe.config.run import RunConfig
from moe.errors import ConfigError, PlanError
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import CPU
from moe.planning.plan.file import load_plan
from moe.planning.plan.plan import Plan
from moe.planning.prediction.predict import bytes_per_rank
from pipelines.planning.architecture import architecture_of


def render(
    plan_file: Path,
    model: str,
    sequence_length: int,
    deployment: Deployment,
    name: str | None,
    run: RunConfig | None,
) -> str:
    """Return as YAML the RayJob that trains a run under a plan or, without a run, a RayService.

    A RayJob is named after its run unless ``name`` is given.
    """
    plan, config = load_plan(plan_file), architecture_of(model).config
    plan.check_model(config)
    if run is not None:
        _check_run(run, plan, deployment)
        sizes = bytes_per_rank(config, plan, _training(run, plan, sequence_length))
        return dump([rayjob(plan, sizes, deployment, name or run.name)])
    if name is None:
        raise ConfigError("the RayService has no name; give --name, or --run FILE for a RayJob")
    if plan.chunks > 1:
        raise PlanError(
            f"{plan_file} has {plan.chunks} spans of layers a stage, so it is for training and "
            "cannot become a RayService; give --run FILE for a RayJob"
        )
    one, gpus = plan.of_replicas(1), _on_gpus(plan)
    serving = Workload(sequence_length, 1, 1, training=False, gpus=gpus)
    return dump([rayservice(one, bytes_per_rank(config, one, serving), deployment, name)])


def _training(run: RunConfig, plan: Plan, sequence_length: int) -> Workload:
    """Return the workload of a step on the replica with the most micro-batches.

    Pods have room for snapshots and, where the run keeps copies of its ranks, for these.
    """
    most = -(-run.train.micro_batches // plan.replicas)
    work = Workload.of_run(run.train, sequence_length, most, _on_gpus(plan))
    return replace(work, copies=run.elastic.copies and plan.replicas * plan.ranks > 1)


def _on_gpus(plan: Plan) -> bool:
    return plan.stages[0].ranks[0].kind != CPU


def _check_run(run: RunConfig, plan: Plan, deployment: Deployment) -> None:
    """Raise ConfigError if the run does not match the plan for which the pods are sized."""
    check_step(plan, run.train.schedule, run.train.micro_batches)
    mount = PurePosixPath(deployment.storage.mount)
    for key, path in _paths(run):
        if not path.is_relative_to(mount):
            raise ConfigError(
                f"{key} of the run file is {path}, but pods share only the volume at {mount}; give "
                f"the path that it has there, like {mount / path.name}"
            )
    shape = (run.plan.stages, run.plan.gang, run.plan.chunks, run.plan.replicas)
    planned = (len(plan.stages), plan.gang_size, plan.chunks, plan.replicas)
    if run.plan.path is None and shape != planned:
        raise ConfigError(
            f"the run makes a plan of its own with {_shape(shape)}, but the pods are for a plan "
            f"with {_shape(planned)}; set plan.path of the run to this plan in the pods"
        )


def _paths(run: RunConfig) -> Iterator[tuple[str, PurePosixPath]]:
    yield "model.path", PurePosixPath(run.model.path)
    yield "data.path", PurePosixPath(run.data.path)
    yield "checkpoint.path", PurePosixPath(run.checkpoint.path)
    if run.plan.path is not None:
        yield "plan.path", PurePosixPath(run.plan.path)


def _shape(shape: tuple[int, int, int, int]) -> str:
    stages, gang, chunks, replicas = shape
    return f"stages = {stages}, gang = {gang}, chunks = {chunks}, replicas = {replicas}"
