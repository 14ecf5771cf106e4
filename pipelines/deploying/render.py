"""A plan as Kubernetes objects."""

from pathlib import Path

from cluster.kuberay.objects import dump, rayjob, rayservice
from cluster.kuberay.options import KubeOptions
from moe.checkpoint.reader import Checkpoint
from moe.planning.counts.workload import Workload
from moe.planning.plan.file import load_plan
from moe.planning.prediction.predict import bytes_per_rank


def render(plan_file: Path, model: Path, workload: Workload, options: KubeOptions) -> str:
    """Return a RayJob that trains under a plan and a RayService that serves under it, as YAML.

    A plan of several runs of layers a stage is for training: there is no service then.
    """
    plan, config = load_plan(plan_file), Checkpoint.open(model).config
    plan.check_model(config)
    objects = [rayjob(plan, bytes_per_rank(config, plan, workload), options)]
    if plan.chunks == 1:
        one, serving = plan.of_replicas(1), Workload(workload.sequence_length, 1, 1, training=False)
        objects.append(rayservice(one, bytes_per_rank(config, one, serving), options))
    return dump(objects)
