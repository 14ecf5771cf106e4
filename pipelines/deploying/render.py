"""A run as Kubernetes objects: a RayJob that trains it, or a RayService that serves its model."""

from dataclasses import replace
from typing import Any

from cluster.kuberay.deployment import Deployment
from cluster.kuberay.objects import (
    arguments_of,
    config_map,
    head_guard,
    rayjob,
    rayservice,
)
from cluster.kuberay.scheduling import SERVING, TRAINING
from cluster.kuberay.work import Work
from moe.config.run import RunConfig, tuned_model
from moe.errors import ConfigError
from moe.planning.prediction.predict import bytes_per_rank
from pipelines.deploying.run_in_pods import check_paths, serving_files, training_files
from pipelines.deploying.sources import Sources, on_gpus, sequence_length, training_work

Table = dict[str, Any]


def training_objects(
    run: RunConfig, deployment: Deployment, sources: Sources, name: str | None = None
) -> list[Table]:
    """Return the RayJob of a run and its files. Its name is the run's, unless one is given.

    Pods have room for snapshots and, where the run keeps copies of its ranks, for these.
    """
    if run.train.engine == "deepspeed":
        raise ConfigError(
            'train.engine = "deepspeed" has workers of Ray Train, and the pods of a RayJob are '
            "sized for the actors of a plan; send the run to a Ray cluster by `raymoe submit`, or "
            'set train.engine = "raymoe"'
        )
    check_paths(run, deployment)
    length, config = sequence_length(run), tuned_model(run, sources.config(run))
    run.check_model(config)
    plan = sources.training_plan(run, config, length)
    workload = training_work(run, length, plan.replicas, on_gpus(plan))
    copies = run.elastic.copies and plan.replicas * plan.ranks > 1
    sizes = bytes_per_rank(config, plan, replace(workload, copies=copies))
    spares = run.elastic.spares if run.elastic.copies else 0
    work = Work(plan, sizes, training_files(run, plan), spares)
    found = name or run.name
    return [
        config_map(work, deployment, found, TRAINING),
        head_guard(deployment, found, TRAINING),
        rayjob(work, deployment, found),
    ]


def serving_objects(
    run: RunConfig, deployment: Deployment, sources: Sources, name: str | None = None
) -> list[Table]:
    """Return the RayService of a run's model and its plan.

    There are pods for as many replicas of the server as there may be at once.
    """
    from pipelines.serving.arguments import ServeArguments, parse_as

    check_paths(run, deployment)
    found, config = name or run.name, sources.config(run)
    table = arguments_of(deployment, str(run.model.path), found)
    arguments = parse_as(ServeArguments, table)
    workload = arguments.workload(config)
    plan = sources.serving_plan(run, config, workload)
    sizes = bytes_per_rank(config, plan, replace(workload, gpus=on_gpus(plan)))
    work = Work(plan, sizes, serving_files(plan), arguments.spares, arguments.most)
    return [
        config_map(work, deployment, found, SERVING),
        head_guard(deployment, found, SERVING),
        rayservice(work, deployment, found, table),
    ]
