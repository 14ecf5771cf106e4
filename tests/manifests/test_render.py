import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr,
)

from actors.crew.nodes.bundles import bundle
from cluster.kuberay.deployment import Deployment
from cluster.kuberay.objects import config_map, rayjob
from cluster.kuberay.pods import NOTICE
from cluster.kuberay.rules import check
from cluster.kuberay.work import PLAN_FILE, RUN_FILE, Work
from cluster.kuberay.writing import dump
from moe.errors import ConfigError, PlanError
from moe.planning.plan.plan import Plan
from tests.manifests.restricted import violations
from tests.manifests.samples import (
    BYTES,
    GIB,
    GPU_KINDS,
    GPU_TABLE,
    ON_CPUS,
    ON_GPUS,
    asking,
    deployment,
    job,
    service,
    two_stages,
)
from tests.manifests.schema import faults

GPUS = two_stages(("A100-80G", "A100-80G"))
AUTOSCALE = {"autoscale": True}
VARIANTS = {
    "cpu": (two_stages(), ON_CPUS),
    "gpu": (two_stages(GPU_KINDS), ON_GPUS),
    "cpu-autoscaled": (two_stages(), deployment(workers=AUTOSCALE)),
    "gpu-autoscaled": (two_stages(GPU_KINDS), deployment(GPU_TABLE, workers=AUTOSCALE)),
}

Render = Callable[..., dict[str, Any]]
variants = pytest.mark.parametrize(("plan", "options"), VARIANTS.values(), ids=VARIANTS.keys())
kinds = pytest.mark.parametrize("render", [job, service])


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
    table = render(plan, options)
    assert faults(table) == []
    assert check([table]) == []


@variants
@kinds
def test_ray_reads_the_sizes_that_the_plan_needs(
    render: Render, plan: Plan, options: Deployment
) -> None:
    types = _autoscaling(render(plan, options))["available_node_types"]
    assert types["headgroup"]["resources"]["CPU"] == 0
    assert types["driver"]["resources"]["CPU"] == 0
    ranks = {name: entry for name, entry in types.items() if name not in ("headgroup", "driver")}
    assert sum(entry["max_workers"] for entry in ranks.values()) == 2
    gpus = sum(entry["max_workers"] * entry["resources"].get("GPU", 0) for entry in ranks.values())
    assert gpus == sum(plan.rank(seat).kind != "cpu" for seat in plan.seats.of_replica(0))
    # A rank has its threads; one on a GPU has two CPUs at least.
    cpus = sum(entry["max_workers"] * entry["resources"]["CPU"] for entry in ranks.values())
    assert cpus == (8 if gpus else 6)
    for entry in ranks.values():
        assert entry["min_workers"] == (0 if options.workers.autoscale else entry["max_workers"])
        assert entry["labels"]["raymoe/role"] == "rank"


def test_gangs_that_need_the_same_pod_share_a_group() -> None:
    same = (GIB, GIB + 1, GIB, GIB + 2)
    groups = _groups(job(two_stages(), ON_CPUS, sizes=same))
    assert [(name, group["replicas"]) for name, group in groups.items()] == [
        ("driver", 1),
        ("cpu-0", 2),
    ]
    amounts = groups["cpu-0"]["template"]["spec"]["containers"][0]["resources"]
    assert amounts["limits"] == amounts["requests"]
    assert amounts["limits"] == {"cpu": "3", "memory": "5Gi", "ephemeral-storage": "10Gi"}
    assert "resources" not in groups["cpu-0"]


def test_gangs_on_gpus_of_one_kind_share_a_group_of_the_largest_pods() -> None:
    """A pod that comes back can take the place of any other of its kind."""
    plan = two_stages(("A100-80G", "A100-80G"))
    unlike = (GIB, GIB, 40 * GIB, 40 * GIB)
    groups = _groups(job(plan, ON_CPUS, sizes=unlike))
    assert [(name, each["replicas"]) for name, each in groups.items()] == [
        ("driver", 1),
        ("gpu-0", 2),
    ]
    limits = groups["gpu-0"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["memory"] == "88Gi"  # 80 GiB and 5 %, and what runs beside the ranks
    assert limits["cpu"] == "4"
    on_cpus = _groups(job(two_stages(), ON_CPUS, sizes=unlike))
    assert list(on_cpus) == ["driver", "cpu-0", "cpu-1"]
    two_kinds = _groups(job(two_stages(("A100-80G", "4090")), ON_CPUS, sizes=unlike))
    assert list(two_kinds) == ["driver", "gpu-0", "gpu-1"]


def test_memory_that_processes_share_is_bounded_and_counted() -> None:
    def shm(plan: Plan) -> str:
        pod = _groups(job(plan, ON_CPUS))["gpu-0" if plan is GPUS else "cpu-0"]["template"]["spec"]
        (volume,) = [each for each in pod["volumes"] if each["name"] == "shm"]
        assert volume["emptyDir"]["medium"] == "Memory"
        mounts = pod["containers"][0]["volumeMounts"]
        assert {"name": "shm", "mountPath": "/dev/shm"} in mounts
        return str(volume["emptyDir"]["sizeLimit"])

    assert shm(two_stages()) == "384Mi"
    assert shm(GPUS) == "896Mi"


def test_warm_processes_have_room() -> None:
    plan = two_stages()

    def memory(spares: int) -> int:
        files = {RUN_FILE: "", PLAN_FILE: ""}
        table = rayjob(Work(plan, BYTES, files, spares), ON_CPUS, "demo")
        pod = _groups(table)["cpu-0"]["template"]["spec"]
        return int(pod["containers"][0]["resources"]["limits"]["memory"].removesuffix("Gi"))

    assert memory(8) - memory(0) in (2, 3)  # 8 x 320 MiB, in whole GiB


def test_the_autoscaler_knows_the_word_by_which_ranks_ask_for_their_gpus() -> None:
    plan = two_stages(("A100-80G", "4090"))
    types = _autoscaling(job(plan, deployment(workers=AUTOSCALE)))["available_node_types"]
    for stage, name in enumerate(("gpu-0", "gpu-1")):
        asked = bundle(plan.stages[stage].ranks[0])
        there = types[name]["resources"]
        assert all(there.get(word, 0) >= amount for word, amount in asked.items()), asked


def test_gpus_are_counted_by_the_resource_of_their_vendor() -> None:
    amd = _groups(job(two_stages(("MI300X", "MI300X")), ON_CPUS))["gpu-0"]["template"]["spec"]
    assert amd["containers"][0]["resources"]["limits"]["amd.com/gpu"] == "2"
    assert amd["tolerations"][0]["key"] == "amd.com/gpu"


def test_a_gpu_gang_asks_for_its_gpus_its_nodes_and_tolerates_their_taint() -> None:
    groups = _groups(job(two_stages(GPU_KINDS), ON_GPUS))
    pod = groups["gpu-0"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert pod["nodeSelector"] == {"example.com/gpu": "a100"}
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert groups["gpu-1"]["labels"]["raymoe/kind"] == "NVIDIA-A100-SXM4-80GB"
    cpus = _groups(job(two_stages(), ON_CPUS))
    assert "tolerations" not in cpus["cpu-0"]["template"]["spec"]


def test_every_replica_has_a_pod_for_each_of_its_gangs() -> None:
    stages = [
        replace(stage, ranks=tuple(replace(each, devices=each.devices * 3) for each in stage.ranks))
        for stage in two_stages().stages
    ]
    groups = _groups(job(replace(two_stages(), stages=tuple(stages)), ON_CPUS))
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
    table = job(plan, ON_CPUS)
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
        job(unlike, ON_CPUS)
    torn = asking(asking(two_stages(), 1, 0, labels=(("a", "b"),)), 1, 1, labels=(("a", "!b"),))
    with pytest.raises(PlanError, match="ranks of stage 1 select a so that no pod can have it"):
        job(torn, ON_CPUS)
    pinned = asking(two_stages(), 0, 1, labels=(("ray.io/node-id", "0123"),))
    with pytest.raises(PlanError, match=r"stage 0 select ray\.io/node-id so that no pod"):
        job(pinned, ON_CPUS)


@kinds
@pytest.mark.parametrize("read_only", [False, True])
def test_every_pod_passes_the_restricted_standard_and_only_an_autoscaling_head_has_a_token(
    render: Render, read_only: bool
) -> None:
    for autoscale in (False, True):
        more = {"workers": {"autoscale": autoscale}, "security": {"read_only_root": read_only}}
        table = render(two_stages(GPU_KINDS), deployment(GPU_TABLE, **more))
        head = _cluster(table)["headGroupSpec"]["template"]["spec"]
        workers = [group["template"]["spec"] for group in _groups(table).values()]
        submitter = table["spec"].get("submitterPodTemplate", {"spec": workers[0]})["spec"]
        assert head["automountServiceAccountToken"] is autoscale
        assert not any(pod["automountServiceAccountToken"] for pod in (*workers, submitter))
        for pod in (head, submitter, *workers):
            assert list(violations(pod)) == []
            assert pod["containers"][0]["imagePullPolicy"] == "IfNotPresent"


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"securityContext": {}}, {"runAsNonRoot", "seccompProfile"}),
        ({"hostNetwork": True}, {"hostNetwork"}),
        ({"volumes": [{"name": "a", "hostPath": {"path": "/"}}]}, {"volumes: ['hostPath']"}),
        ({"containers": [{"name": "a"}]}, {"allowPrivilegeEscalation", "capabilities.drop"}),
    ],
)
def test_the_standard_itself_finds_a_planted_fault(change: Any, found: set[str]) -> None:
    pod = _cluster(job(two_stages(), ON_CPUS))["headGroupSpec"]["template"]["spec"]
    assert set(violations(pod | change)) == found


def test_memory_that_ranks_lock_is_outside_of_the_standard() -> None:
    table = job(two_stages(GPU_KINDS), deployment(GPU_TABLE, security={"lock_memory": True}))
    groups = _groups(table)
    assert list(violations(groups["gpu-0"]["template"]["spec"])) == ["capabilities.add"]
    assert list(violations(groups["driver"]["template"]["spec"])) == []


@kinds
def test_a_worker_s_pod_gives_notice_before_it_ends_and_a_variable_may_say_otherwise(
    render: Render,
) -> None:
    for environment, seconds in (({}, "55"), ({NOTICE: "20"}, "20")):
        options = deployment(pods={"grace_seconds": 60, "environment": environment})
        for group in _groups(render(two_stages(), options)).values():
            pod = group["template"]["spec"]
            assert pod["terminationGracePeriodSeconds"] == 60
            assert pod["containers"][0]["env"] == [{"name": NOTICE, "value": seconds}]


def test_the_job_trains_the_run_file_of_its_config_map_which_every_pod_mounts() -> None:
    work = Work(two_stages(), BYTES, {RUN_FILE: "name = 'demo'\n", PLAN_FILE: "# a\n"})
    files = config_map(work, ON_CPUS, "demo", "training")
    table = rayjob(work, ON_CPUS, "demo")
    assert table["spec"]["entrypoint"] == "raymoe train /etc/raymoe/run.toml --resume-if-saved"
    head = _cluster(table)["headGroupSpec"]["template"]
    for template in (head, *(group["template"] for group in _groups(table).values())):
        (volume,) = [each for each in template["spec"]["volumes"] if each["name"] == "config"]
        assert volume["configMap"]["name"] == files["metadata"]["name"]
        mount = {"name": "config", "mountPath": "/etc/raymoe", "readOnly": True}
        assert mount in template["spec"]["containers"][0]["volumeMounts"]
    assert files["data"] == dict(work.files)
    other = rayjob(replace(work, files={**work.files, PLAN_FILE: "# b\n"}), ON_CPUS, "demo")
    changed = _cluster(other)["headGroupSpec"]["template"]["metadata"]["annotations"]
    assert changed != head["metadata"]["annotations"]


def test_files_that_no_config_map_takes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"1,000,000 bytes, a ConfigMap takes 921,600"):
        Work(two_stages(), BYTES, {RUN_FILE: "#" * 1_000_000})


@pytest.mark.parametrize(
    ("queue", "labels"),
    [
        ({"scheduler": "yunikorn", "name": "q"}, {"yunikorn.apache.org/queue": "q"}),
        ({"scheduler": "kai", "name": "q"}, {"kai.scheduler/queue": "q"}),
        ({"scheduler": "scheduler-plugins"}, {"ray.io/gang-scheduling-enabled": "true"}),
        (
            {"scheduler": "volcano", "name": "q", "priority": "p"},
            {"volcano.sh/queue-name": "q", "ray.io/priority-class-name": "p"},
        ),
    ],
)
def test_every_scheduler_is_told_of_its_queue(
    queue: dict[str, str], labels: dict[str, str]
) -> None:
    table = job(two_stages(), deployment(queue=queue))
    assert labels.items() <= table["metadata"]["labels"].items()
    assert faults(table) == check([table]) == []


def test_a_replica_is_a_slice_for_kueue_and_a_run_an_affinity_without_it() -> None:
    rack = {"label": "a/rack"}
    plan = two_stages(("A100-80G", "A100-80G"))
    sliced = _groups(job(plan, deployment(queue={"name": "q"}, topology=rack)))["gpu-0"]
    notes = sliced["template"]["metadata"]["annotations"]
    assert notes["kueue.x-k8s.io/podset-slice-size"] == "2"  # the stages of a replica
    for required, key in ((True, "required"), (False, "preferred")):
        options = deployment(topology=rack | {"unit": "run", "required": required})
        table = job(plan, options)
        affinity = _groups(table)["gpu-0"]["template"]["spec"]["affinity"]["podAffinity"]
        assert list(affinity) == [f"{key}DuringSchedulingIgnoredDuringExecution"]
        assert "affinity" not in _groups(table)["driver"]["template"]["spec"]
        assert faults(table) == []


@pytest.mark.filterwarnings(  # Ray Serve declares its own fields in a way pydantic has left behind.
    "ignore:Using extra keyword arguments on:pydantic.warnings.PydanticDeprecatedSince20"
)
def test_serve_takes_the_configuration_of_the_service() -> None:
    from ray.serve.schema import ServeDeploySchema

    spec = service(two_stages(), ON_CPUS)["spec"]
    config = ServeDeploySchema.model_validate(yaml.safe_load(spec["serveConfigV2"]))
    (application,) = config.applications
    assert application.import_path == "pipelines.serving.app:build"
    assert application.args == {
        "model": "/data/models/demo",
        "plan": "/etc/raymoe/plan.toml",
        "name": "demo",
        "driver_labels": {"raymoe/role": "driver"},
        "wait_seconds": 1200.0,
    }


def test_workers_of_a_server_are_ready_while_its_proxy_listens() -> None:
    """KubeRay's own probe would leave a new cluster without a ready pod for seconds."""
    for group in service(two_stages(), ON_CPUS)["spec"]["rayClusterConfig"]["workerGroupSpecs"]:
        probe = group["template"]["spec"]["containers"][0]["readinessProbe"]
        assert probe["tcpSocket"] == {"port": 8000}
        assert probe["periodSeconds"] * probe["failureThreshold"] <= 3
    for group in job(two_stages(), ON_CPUS)["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        assert "readinessProbe" not in group["template"]["spec"]["containers"][0]


@variants
def test_yaml_holds_the_same_objects_without_anchors_and_twice_the_same(
    plan: Plan, options: Deployment
) -> None:
    objects = [render(plan, options) for render in (job, service)]
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
        job(two_stages(), deployment(image=image), name)


def test_memory_and_node_selectors_must_fit_the_plan() -> None:
    with pytest.raises(PlanError, match="4 ranks but memory was given for 3"):
        job(two_stages(), ON_CPUS, sizes=BYTES[:3])
    with pytest.raises(PlanError, match="rank 1 was given 0 bytes"):
        job(two_stages(), ON_CPUS, sizes=(GIB, 0, GIB, GIB))
    selecting = deployment(workers={"node_selectors": {"A100": {"a": "b"}}})
    with pytest.raises(PlanError, match=r"kind cpu but workers\.node_selectors has only A100; add"):
        job(two_stages(), selecting)
