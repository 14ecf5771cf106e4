"""A run as its pods read it: its paths are theirs, and its plan is a file beside it."""

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

import tomli_w

from cluster.kuberay.deployment import Deployment
from cluster.kuberay.scheduling import DRIVER_LABELS
from cluster.kuberay.work import FILES, PLAN_FILE, RUN_FILE
from moe.config.run import RunConfig
from moe.errors import ConfigError
from moe.planning.plan.file import to_dict
from moe.planning.plan.plan import Plan
from pipelines.deploying.run_table import run_table


def training_files(run: RunConfig, plan: Plan) -> Mapping[str, str]:
    """Return the run file and the plan, as pods find them."""
    table = run_table(with_driver_pod(run))
    least = {key: value for key, value in table.get("plan", {}).items() if key == "least_replicas"}
    table["plan"] = {"path": f"{FILES}/{PLAN_FILE}"} | least
    return {RUN_FILE: tomli_w.dumps(table), **serving_files(plan)}


def with_driver_pod(run: RunConfig) -> RunConfig:
    """Return the run with its driver in the driver pod, unless it says where its driver is."""
    if run.cluster.driver_labels:
        return run
    cluster = run.cluster.model_copy(update={"driver_labels": dict(DRIVER_LABELS)})
    return run.model_copy(update={"cluster": cluster})


def serving_files(plan: Plan) -> Mapping[str, str]:
    """Return the plan, as pods find it."""
    return {PLAN_FILE: tomli_w.dumps(to_dict(plan))}


def check_paths(run: RunConfig, deployment: Deployment) -> None:
    """Raise ConfigError for a path that the pods do not share."""
    for key, path in _paths(run):
        if not any(path.is_relative_to(mount) for mount in deployment.mounts):
            raise ConfigError(
                f"{key} of the run file is {path}, but pods share only "
                f"{' and '.join(deployment.mounts)}; give the path that it has there, like "
                f"{PurePosixPath(deployment.storage.mount) / path.name}"
            )


def _paths(run: RunConfig) -> Iterator[tuple[str, PurePosixPath]]:
    yield "model.path", PurePosixPath(run.model.path)
    yield "data.path", PurePosixPath(run.data.path)
    yield "checkpoint.path", PurePosixPath(run.checkpoint.path)
    if run.train.lora is not None and run.train.lora.start is not None:
        yield "train.lora.start", PurePosixPath(run.train.lora.start)
