"""Small plans and options for manifests: their shapes matter here, their numbers do not."""

from dataclasses import replace
from typing import Any

from cluster.kuberay.deployment import Deployment, parse_deployment
from cluster.kuberay.objects import arguments_of, rayjob, rayservice
from cluster.kuberay.work import PLAN_FILE, RUN_FILE, Work
from moe.planning.plan.plan import Plan, RankPlan, StagePlan

GIB = 2**30
BYTES = (GIB, GIB, 3 * GIB, 3 * GIB)
GPU_KINDS = ("A100", "NVIDIA A100-SXM4 80GB")

CPU_TABLE: dict[str, Any] = {
    "namespace": "research",
    "image": {"name": "registry.example/raymoe:0.1.0"},
    "storage": {"claim": "shared"},
}


def deployment(table: dict[str, Any] = CPU_TABLE, **sections: Any) -> Deployment:
    """Return a deployment with some of its keys set otherwise: ``workers={"autoscale": True}``."""
    changed = dict(table)
    for name, value in sections.items():
        before = changed.get(name)
        changed[name] = before | value if isinstance(before, dict) else value
    return parse_deployment(changed, "test")


ON_CPUS = deployment()
GPU_TABLE = CPU_TABLE | {
    "image": CPU_TABLE["image"] | {"pull_secrets": ["registry"]},
    "workers": {
        "node_selectors": {"A100": {"example.com/gpu": "a100"}, "NVIDIA A100-SXM4 80GB": {}}
    },
    "pods": {"environment": {"HF_HUB_OFFLINE": "1"}},
}
ON_GPUS = deployment(GPU_TABLE)

SIZES = {
    "layers": 4,
    "hidden_size": 16,
    "heads": 8,
    "kv_heads": 4,
    "ffn_size": 8,
    "experts": 4,
    "shared_size": 0,
    "vocab_size": 32,
}


def two_stages(kinds: tuple[str, str] = ("cpu", "cpu")) -> Plan:
    """Return two stages of two ranks, each on devices of a kind; second ranks have two threads."""
    return Plan(model=SIZES, stages=tuple(_stage(number, kinds[number]) for number in range(2)))


def job(plan: Plan, options: Deployment, name: str = "demo", sizes: Any = BYTES) -> dict[str, Any]:
    """Return the RayJob of a plan whose ranks have these bytes."""
    files = {RUN_FILE: "name = 'demo'\n", PLAN_FILE: "# a plan\n"}
    return rayjob(Work(plan, tuple(sizes), files), options, name)


def service(
    plan: Plan, options: Deployment, name: str = "demo", sizes: Any = BYTES
) -> dict[str, Any]:
    """Return the RayService of a plan whose ranks have these bytes."""
    work = Work(plan, tuple(sizes), {PLAN_FILE: "# a plan\n"})
    return rayservice(work, options, name, arguments_of(options, "models/demo", name))


def cluster(plan: Plan, options: Deployment = ON_CPUS, sizes: Any = BYTES) -> dict[str, Any]:
    """Return the RayCluster that KubeRay makes of the RayJob of a plan."""
    spec = job(plan, options, sizes=sizes)["spec"]["rayClusterSpec"]
    metadata = {"name": "demo-abcde", "namespace": options.namespace}
    return {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": metadata, "spec": spec}


def asking(plan: Plan, stage: int, member: int, **needs: Any) -> Plan:
    """Return the plan with one rank asking for something more."""
    stages = list(plan.stages)
    ranks = list(stages[stage].ranks)
    ranks[member] = replace(ranks[member], **needs)
    stages[stage] = replace(stages[stage], ranks=tuple(ranks))
    return replace(plan, stages=tuple(stages))


def _stage(number: int, kind: str) -> StagePlan:
    small = RankPlan((f"n{number}/{kind}0",), (0, 1), ffn=(0, 2), experts=(0,), kind=kind)
    large = RankPlan(
        (f"n{number}/{kind}1",), (1, 4), ffn=(2, 8), experts=(1, 2, 3), threads=2, kind=kind
    )
    return StagePlan(layers=(2 * number, 2 * number + 2), ranks=(small, large))
