"""The deployment file: every key has an effect on the objects, every fault is named."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.kuberay.deployment import Deployment, Toleration, load_deployment
from cluster.kuberay.objects import rayjob, rayservice
from cluster.kuberay.pods import NOTICE
from cluster.kuberay.rules import check
from moe.config.section import Section
from moe.errors import ConfigError
from tests.manifests.samples import BYTES, CPU_TABLE, deployment, two_stages
from tests.manifests.schema import faults

ROOT = Path(__file__).parents[2]
GPU_PLAN = two_stages(("A100-80G", "4090"))
SECRET = {"secretRef": {"name": "bucket"}}

HEAD = ("headGroupSpec", "template", "spec")
DRIVER = ("workerGroupSpecs", 0, "template", "spec")
RANK = ("workerGroupSpecs", 1, "template", "spec")
BOX = ("containers", 0)
PODS = (HEAD, DRIVER, RANK)
EVERY_POD = (*PODS, ("submitterPodTemplate", "spec"))
LIMITS = (*BOX, "resources", "limits")


def _notice(seconds: int) -> dict[str, str]:
    return {"name": NOTICE, "value": str(seconds)}


EFFECTS: list[tuple[str, Any, tuple[tuple[tuple[Any, ...], Any], ...]]] = [
    ("namespace", "other", ((("metadata", "namespace"), "other"),)),
    ("image.name", "a/b:1", tuple(((*pod, *BOX, "image"), "a/b:1") for pod in EVERY_POD)),
    (
        "image.pull_secrets",
        ["registry"],
        tuple(((*pod, "imagePullSecrets"), [{"name": "registry"}]) for pod in EVERY_POD),
    ),
    ("image.ray_version", "2.59.1", ((("rayVersion",), "2.59.1"),)),
    (
        "storage.claim",
        "other",
        tuple(
            ((*pod, "volumes", 0, "persistentVolumeClaim", "claimName"), "other") for pod in PODS
        ),
    ),
    (
        "storage.mount",
        "/mnt/all",
        tuple(((*pod, *BOX, "volumeMounts", 0, "mountPath"), "/mnt/all") for pod in PODS),
    ),
    (
        "paths.run",
        "/data/a.toml",
        ((("entrypoint",), "raymoe train /data/a.toml --resume-if-saved"),),
    ),
    ("paths.model", "moe", ((("serve", "model"), "/data/moe"),)),
    ("paths.plan", "p.toml", ((("serve", "plan"), "/data/p.toml"),)),
    ("head.cpus", 7, (((*HEAD, *LIMITS, "cpu"), "7"),)),
    ("head.memory_gib", 9, (((*HEAD, *LIMITS, "memory"), "9Gi"),)),
    ("head.node_selector", {"a": "b"}, (((*HEAD, "nodeSelector"), {"a": "b"}),)),
    ("driver.cpus", 7, (((*DRIVER, *LIMITS, "cpu"), "7"),)),
    ("driver.memory_gib", 9, (((*DRIVER, *LIMITS, "memory"), "9Gi"),)),
    ("driver.node_selector", {"a": "b"}, (((*DRIVER, "nodeSelector"), {"a": "b"}),)),
    ("workers.gpu_resource", "amd.com/gpu", (((*RANK, *LIMITS, "amd.com/gpu"), "2"),)),
    (
        "workers.node_selectors",
        {"A100-80G": {"a": "b"}, "4090": {}},
        (((*RANK, "nodeSelector"), {"a": "b"}),),
    ),
    (
        "workers.tolerations",
        [{"key": "spot", "value": "yes", "effect": "NoExecute"}, {"key": "old"}],
        (
            (
                (*RANK, "tolerations"),
                [
                    {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
                    {"key": "spot", "operator": "Equal", "value": "yes", "effect": "NoExecute"},
                    {"key": "old", "operator": "Exists"},
                ],
            ),
        ),
    ),
    ("workers.autoscale", True, ((("enableInTreeAutoscaling",), True),)),
    ("workers.idle_seconds", 42, ((("autoscalerOptions", "idleTimeoutSeconds"), 42),)),
    ("objects.labels", {"a.b/c": "d"}, ((("metadata", "labels", "a.b/c"), "d"),)),
    ("objects.annotations", {"a.b/c": "d e"}, ((("metadata", "annotations"), {"a.b/c": "d e"}),)),
    (
        "pods.labels",
        {"a": "b"},
        tuple(((*pod[:-1], "metadata", "labels", "a"), "b") for pod in EVERY_POD),
    ),
    (
        "pods.annotations",
        {"a": "b c"},
        tuple(((*pod[:-1], "metadata", "annotations", "a"), "b c") for pod in EVERY_POD),
    ),
    (
        "pods.environment",
        {"A": "b"},
        tuple(((*pod, *BOX, "env", 0), {"name": "A", "value": "b"}) for pod in EVERY_POD),
    ),
    (
        "pods.environment_secrets",
        ["bucket"],
        tuple(((*pod, *BOX, "envFrom"), [SECRET]) for pod in EVERY_POD),
    ),
    (
        "pods.priority_class",
        "high",
        tuple(((*pod, "priorityClassName"), "high") for pod in EVERY_POD),
    ),
    (
        "pods.grace_seconds",
        99,
        (
            *(((*pod, "terminationGracePeriodSeconds"), 99) for pod in EVERY_POD),
            *(((*pod, *BOX, "env", 0), _notice(94)) for pod in (DRIVER, RANK)),
        ),
    ),
    (
        "security.user",
        1234,
        tuple(
            ((*pod, "securityContext", key), 1234)
            for pod in EVERY_POD
            for key in ("runAsUser", "fsGroup")
        ),
    ),
    (
        "security.service_account",
        "cloud",
        tuple(((*pod, "serviceAccountName"), "cloud") for pod in PODS),
    ),
    ("job.start_seconds", 77, ((("preRunningDeadlineSeconds",), 77),)),
    ("job.keep_seconds", 77, ((("ttlSecondsAfterFinished",), 77),)),
    ("job.retries", 3, ((("backoffLimit",), 3),)),
    ("service.upgrade", "none", ((("upgradeStrategy", "type"), "None"),)),
]
"""A key, a value other than its default, and where that value shows in the job or the service."""

NEEDS = {"workers.idle_seconds": {"workers": {"autoscale": True}}}


def tables(options: Deployment) -> list[dict[str, Any]]:
    return [render(GPU_PLAN, BYTES, options, "demo") for render in (rayjob, rayservice)]


def places(table: dict[str, Any]) -> list[Any]:
    """Return the tables in which a path of EFFECTS may begin."""
    spec = table["spec"]
    cluster = spec.get("rayClusterSpec") or spec["rayClusterConfig"]
    served = yaml.safe_load(spec.get("serveConfigV2", "{}")).get("applications", [])
    return [table, spec, cluster, *({"serve": each["args"]} for each in served)]


def values(options: Deployment, path: tuple[Any, ...]) -> list[Any]:
    """Return what stands at a path, in every place that has it."""
    found = []
    for place in (each for table in tables(options) for each in places(table)):
        node = place
        for step in path:
            known = isinstance(node, dict) and step in node
            node = node[step] if known or isinstance(node, list) else None
        if node is not None:
            found.append(node)
    return found


def changed(key: str, value: Any) -> Deployment:
    section, _, name = key.rpartition(".")
    if not section:
        return deployment(**{name: value})
    needed = NEEDS.get(key, {}).get(section, {})
    return deployment(**{section: needed | {name: value}})


@pytest.mark.parametrize(("key", "value", "effects"), EFFECTS, ids=[key for key, *_ in EFFECTS])
def test_every_key_shows_in_the_objects(key: str, value: Any, effects: Any) -> None:
    options = changed(key, value)
    for path, expected in effects:
        found = values(options, path)
        assert found, path
        assert all(each == expected for each in found), (path, found)
        assert not all(each == expected for each in values(deployment(), path) or [None]), path


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, value, _ in EFFECTS])
def test_no_key_makes_objects_that_the_api_server_refuses(key: str, value: Any) -> None:
    for table in tables(changed(key, value)):
        assert faults(table) == check([table]) == []


def keys(section: type[Section], before: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            yield from keys(inner, f"{before}{name}.")
        else:
            yield f"{before}{name}"


def test_the_effects_are_of_every_key() -> None:
    assert sorted(keys(Deployment)) == sorted(key for key, *_ in EFFECTS)


def test_the_page_explains_every_key() -> None:
    page = (ROOT / "docs" / "guide" / "deployment.md").read_text(encoding="utf-8")
    for key in [*keys(Deployment), *(f"{name}" for name in Toleration.model_fields)]:
        assert f"`{key.rpartition('.')[2]}`" in page, key


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("image.nme=a:1", r"image\.nme: unknown key; did you mean name\?"),
        ("imag.name=a:1", r"imag: unknown key; did you mean image\?"),
        ("image.name=raymoe", r"image\.name: .*not pinned.*found 'raymoe'"),
        ("image.name=host:5000/raymoe", "not pinned"),
        ("image.name=raymoe:latest", "not pinned"),
        ('storage.claim="Shared Data"', r"storage\.claim: give the name of an object"),
        ("storage.mount=data", r"storage\.mount: give a path from the root, like /data"),
        ("storage.mount=/", r"storage\.mount: give a path from the root"),
        ("paths.run=/elsewhere/run.toml", r"paths\.run is /elsewhere/run\.toml, which is not in"),
        ("paths.plan=../plan.toml", r"paths\.plan is .*which is not in the volume at /data"),
        ("namespace=My_Space", "namespace: give lower-case letters"),
        ("head.cpus=0", r"head\.cpus: Input should be greater than 0; found 0"),
        ("driver.memory_gib=0.5", r"driver\.memory_gib: Input should be a valid integer"),
        ("workers.idle_seconds=5", "idle_seconds has no effect without autoscale = true"),
        ('workers.node_selectors.A100="x"', r"workers\.node_selectors\.A100: .*dictionary"),
        (
            'workers.tolerations=[{key="a", efect="NoExecute"}]',
            r"workers\.tolerations\.0\.efect: unknown key; did you mean effect\?",
        ),
        (
            'workers.tolerations=[{key="a b"}]',
            r"workers\.tolerations\.0: 'a b' is not a key of a taint",
        ),
        ("pods.grace_seconds=5", r"pods\.grace_seconds: Input should be greater than 5"),
        ('pods.labels={"raymoe/run"="x"}', "raymoe sets the labels raymoe/run itself"),
        ('pods.labels={"a b"="x"}', r"pods\.labels: 'a b' is no label key"),
        ('pods.labels={a="x y"}', r"pods\.labels: a = 'x y' is no label value"),
        ('pods.environment={"A-B"="x"}', "'A-B' is no variable name"),
        ('objects.annotations={"a b"="x"}', "'a b' is no annotation key"),
        ("service.upgrade=rolling", r"service\.upgrade: Input should be 'new-cluster' or 'none'"),
    ],
)
def test_a_fault_is_named_with_its_key(tmp_path: Path, override: str, words: str) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text('[image]\nname = "a:1"\n[storage]\nclaim = "c"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=words) as caught:
        load_deployment(file, [override])
    assert str(caught.value).startswith(f"--set {override}: ")


def test_what_has_no_default_must_be_given(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    with pytest.raises(ConfigError, match="no deployment file at "):
        load_deployment(file)
    file.write_text("[image]\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_deployment(file)
    assert "image.name: missing; the deployment file must give it" in str(caught.value)
    assert "storage: missing; the deployment file must give it" in str(caught.value)


def test_a_changed_mount_moves_the_paths() -> None:
    options = deployment(CPU_TABLE | {"storage": {"claim": "c", "mount": "/mnt/all/"}})
    assert options.pod_paths.run == "/mnt/all/runs/demo.toml"


@pytest.mark.parametrize(
    "file", sorted((ROOT / "manifests" / "deployments").glob("*.toml")), ids=lambda file: file.stem
)
def test_every_deployment_file_of_the_repository_renders(file: Path) -> None:
    """A file that selects nodes by kind is rendered for a plan of those kinds."""
    options = load_deployment(file)
    kinds = list(options.workers.node_selectors) or ["cpu"]
    plan = two_stages((kinds[0], kinds[-1]))
    for render in (rayjob, rayservice):
        table = render(plan, BYTES, options, file.stem)
        assert faults(table) == check([table]) == []
