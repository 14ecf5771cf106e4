import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr,
)

from cluster.kuberay.deployment import Deployment
from cluster.kuberay.objects import dump, rayjob, rayservice
from cluster.kuberay.pods import NOTICE
from cluster.kuberay.rules import check
from moe.errors import ConfigError, PlanError
from moe.planning.plan.plan import Plan
from tests.manifests.samples import (
    BYTES,
    GIB,
    GPU_KINDS,
    GPU_TABLE,
    ON_CPUS,
    ON_GPUS,
    asking,
    deployment,
    two_stages,
)
from tests.manifests.schema import faults

AUTOSCALE = {"autoscale": True}
VARIANTS = {
    "cpu": (two_stages(), ON_CPUS),
    "gpu": (two_stages(GPU_KINDS), ON_GPUS),
    "cpu-autoscaled": (two_stages(), deployment(workers=AUTOSCALE)),
    "gpu-autoscaled": (two_stages(GPU_KINDS), deployment(GPU_TABLE, workers=AUTOSCALE)),
}

Render = Callable[..., dict[str, Any]]
variants = pytest.mark.parametrize(("plan", "options"), VARIANTS.values(), ids=VARIANTS.keys())
kinds = pytest.mark.parametrize("render", [rayjob, rayservice])


def _cluster(table: dict[str, Any]) -> dict[str, Any]:
    spec = table["spec"]
    cluster: dict[str, Any] = spec.get("rayClusterSpec") or spec["rayClusterConfig"]
    return cluster


def _groups(table: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {group["groupName"]: group for group in _cluster(table)["workerGroupSpecs"]}


def _autoscaling(table: dict[str, Any]) -> dict[str, Any]:
    """Read the cluster as Ray's autoscaler does; the one place that knows the private name."""
    parsed: dict[str, Any] = _derive_autoscaling_config_from_ray_cr(
        {"metadata": table["metadata"], "spec": _cluster(table)}
    )
    return parsed


@variants
@kinds
def test_the_api_server_and_the_operator_would_take_it(
    render: Render, plan: Plan, options: Deployment
) -> None:
    table = render(plan, BYTES, options, "demo")
    assert faults(table) == []
    assert check([table]) == []


@variants
@kinds
def test_ray_reads_the_sizes_that_the_plan_needs(
    render: Render, plan: Plan, options: Deployment
) -> None:
    types = _autoscaling(render(plan, BYTES, options, "demo"))["available_node_types"]
    assert types["headgroup"]["resources"]["CPU"] == 0
    assert types["driver"]["resources"]["CPU"] == 0
    ranks = {name: entry for name, entry in types.items() if name not in ("headgroup", "driver")}
    assert sum(entry["max_workers"] for entry in ranks.values()) == 2
    assert sum(entry["max_workers"] * entry["resources"]["CPU"] for entry in ranks.values()) == 6
    gpus = sum(entry["max_workers"] * entry["resources"].get("GPU", 0) for entry in ranks.values())
    assert gpus == sum(plan.rank(seat).kind != "cpu" for seat in plan.seats.of_replica(0))
    for entry in ranks.values():
        assert entry["min_workers"] == (0 if options.workers.autoscale else entry["max_workers"])
        assert entry["labels"]["raymoe/role"] == "rank"


def test_gangs_that_need_the_same_pod_share_a_group() -> None:
    same = (GIB, GIB + 1, GIB, GIB + 2)
    groups = _groups(rayjob(two_stages(), same, ON_CPUS, "demo"))
    assert [(name, group["replicas"]) for name, group in groups.items()] == [
        ("driver", 1),
        ("cpu-0", 2),
    ]
    amounts = groups["cpu-0"]["template"]["spec"]["containers"][0]["resources"]
    assert amounts["limits"] == amounts["requests"] == {"cpu": "3", "memory": "5Gi"}
    assert "resources" not in groups["cpu-0"]


def test_a_gpu_gang_asks_for_its_gpus_its_nodes_and_tolerates_their_taint() -> None:
    groups = _groups(rayjob(two_stages(GPU_KINDS), BYTES, ON_GPUS, "demo"))
    pod = groups["gpu-0"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert pod["nodeSelector"] == {"example.com/gpu": "a100"}
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert groups["gpu-1"]["labels"]["raymoe/kind"] == "NVIDIA-A100-SXM4-80GB"
    cpus = _groups(rayjob(two_stages(), BYTES, ON_CPUS, "demo"))
    assert "tolerations" not in cpus["cpu-0"]["template"]["spec"]


def test_every_replica_has_a_pod_for_each_of_its_gangs() -> None:
    stages = [
        replace(stage, ranks=tuple(replace(each, devices=each.devices * 3) for each in stage.ranks))
        for stage in two_stages().stages
    ]
    groups = _groups(rayjob(replace(two_stages(), stages=tuple(stages)), BYTES, ON_CPUS, "demo"))
    assert [group["maxReplicas"] for group in groups.values()] == [1, 3, 3]


def test_what_ranks_ask_for_is_what_ray_is_told_of_their_pods() -> None:
    """Custom resources and labels reach the groups; memory that is reserved is there."""
    plan = asking(
        two_stages(),
        1,
        0,
        memory_bytes=20 * GIB,
        resources=(("slot", 0.5), ("fast", 2.0)),
        labels=(("rack", "in(r0, r1)"), ("zone", "!z0")),
    )
    plan = asking(plan, 1, 1, resources=(("slot", 1.0),), labels=(("rack", "!r0"),))
    table = rayjob(plan, BYTES, ON_CPUS, "demo")
    assert faults(table) == check([table]) == []
    types = _autoscaling(table)["available_node_types"]
    assert types["cpu-1"]["resources"] == {"CPU": 3, "memory": 27 * GIB, "slot": 2, "fast": 2}
    assert types["cpu-1"]["labels"] == {
        "rack": "r1",
        "raymoe/role": "rank",
        "raymoe/kind": "cpu",
    }
    assert types["cpu-0"]["resources"] == {"CPU": 3, "memory": 5 * GIB}


def test_gangs_that_no_pod_can_hold_are_refused() -> None:
    unlike = asking(two_stages(), 0, 0, kind="T4")
    with pytest.raises(PlanError, match=r"stage 0 has devices of kinds T4, cpu, .* in one pod"):
        rayjob(unlike, BYTES, ON_CPUS, "demo")
    torn = asking(asking(two_stages(), 1, 0, labels=(("a", "b"),)), 1, 1, labels=(("a", "!b"),))
    with pytest.raises(PlanError, match="ranks of stage 1 select a so that no pod can have it"):
        rayjob(torn, BYTES, ON_CPUS, "demo")
    pinned = asking(two_stages(), 0, 1, labels=(("ray.io/node-id", "0123"),))
    with pytest.raises(PlanError, match=r"stage 0 select ray\.io/node-id so that no pod"):
        rayjob(pinned, BYTES, ON_CPUS, "demo")


@kinds
def test_every_pod_runs_without_privileges_and_only_an_autoscaling_head_has_a_token(
    render: Render,
) -> None:
    for autoscale in (False, True):
        table = render(
            two_stages(GPU_KINDS),
            BYTES,
            deployment(GPU_TABLE, workers={"autoscale": autoscale}),
            "demo",
        )
        head = _cluster(table)["headGroupSpec"]["template"]["spec"]
        workers = [group["template"]["spec"] for group in _groups(table).values()]
        submitter = table["spec"].get("submitterPodTemplate", {"spec": workers[0]})["spec"]
        assert head["automountServiceAccountToken"] is autoscale
        assert not any(pod["automountServiceAccountToken"] for pod in (*workers, submitter))
        for pod in (head, submitter, *workers):
            assert pod["securityContext"]["runAsNonRoot"]
            assert pod["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert pod["containers"][0]["imagePullPolicy"] == "IfNotPresent"


@kinds
def test_a_worker_s_pod_gives_notice_before_it_ends_and_a_variable_may_say_otherwise(
    render: Render,
) -> None:
    for environment, seconds in (({}, "55"), ({NOTICE: "20"}, "20")):
        options = deployment(pods={"grace_seconds": 60, "environment": environment})
        for group in _groups(render(two_stages(), BYTES, options, "demo")).values():
            pod = group["template"]["spec"]
            assert pod["terminationGracePeriodSeconds"] == 60
            assert pod["containers"][0]["env"] == [{"name": NOTICE, "value": seconds}]


def test_the_job_trains_its_run_file_and_quotes_its_path() -> None:
    spec = rayjob(two_stages(), BYTES, deployment(paths={"run": "my runs/a.toml"}), "demo")["spec"]
    assert spec["entrypoint"] == "raymoe train '/data/my runs/a.toml' --resume-if-saved"


@pytest.mark.filterwarnings(  # Ray Serve declares its own fields in a way pydantic has left behind.
    "ignore:Using extra keyword arguments on:pydantic.warnings.PydanticDeprecatedSince20"
)
def test_serve_takes_the_configuration_of_the_service() -> None:
    from ray.serve.schema import ServeDeploySchema

    spec = rayservice(two_stages(), BYTES, ON_CPUS, "demo")["spec"]
    config = ServeDeploySchema.model_validate(yaml.safe_load(spec["serveConfigV2"]))
    (application,) = config.applications
    assert application.import_path == "pipelines.serving.app:build"
    assert application.args == {
        "model": "/data/models/demo",
        "plan": "/data/plans/demo.toml",
        "name": "demo",
    }


@variants
def test_yaml_holds_the_same_objects_without_anchors_and_twice_the_same(
    plan: Plan, options: Deployment
) -> None:
    objects = [render(plan, BYTES, options, "demo") for render in (rayjob, rayservice)]
    text = dump(objects)
    assert list(yaml.safe_load_all(text)) == objects
    assert text == dump(copy.deepcopy(objects))
    assert text.startswith("---\napiVersion: ray.io/v1\nkind: RayJob\n")
    assert "&id" not in text
    assert "serveConfigV2: |\n" in text


@pytest.mark.parametrize(
    ("name", "image", "words"),
    [
        ("a" * 48, {}, "at most 47"),
        ("9lives", {}, "the first a letter"),
        ("Demo", {}, "lower-case"),
        ("demo", {"ray_version": "2.40.0"}, r"token mode needs Ray 2\.52"),
        ("demo", {"ray_version": "nightly"}, "give the version of Ray in the image"),
    ],
)
def test_what_kuberay_would_refuse_is_refused_here(
    name: str, image: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        rayjob(two_stages(), BYTES, deployment(image=image), name)


def test_memory_and_node_selectors_must_fit_the_plan() -> None:
    with pytest.raises(PlanError, match="4 ranks but memory was given for 3"):
        rayjob(two_stages(), BYTES[:3], ON_CPUS, "demo")
    with pytest.raises(PlanError, match="rank 1 was given 0 bytes"):
        rayjob(two_stages(), (GIB, 0, GIB, GIB), ON_CPUS, "demo")
    selecting = deployment(workers={"node_selectors": {"A100": {"a": "b"}}})
    with pytest.raises(PlanError, match=r"kind cpu but workers\.node_selectors has only A100; add"):
        rayjob(two_stages(), BYTES, selecting, "demo")
