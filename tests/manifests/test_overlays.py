"""The kustomize folder: what it renders is what raymoe renders, and what it names is there."""

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.kuberay.deployment import load_deployment
from cluster.kuberay.rules import check
from tests.manifests.overlays import MANIFESTS, OVERLAYS, ROOT, rendered
from tests.manifests.restricted import violations
from tests.manifests.samples import job, two_stages
from tests.manifests.schema import faults

FILES = sorted(MANIFESTS.rglob("kustomization.yaml"))
FOLDERS = [
    file.parent
    for file in FILES
    if yaml.safe_load(file.read_text(encoding="utf-8"))["kind"] == "Kustomization"
    and file.parent.name != "monitoring"  # whoever applies it chooses its namespace
]
KUBERAY = ("RayJob", "RayService")
MEMORY_LOCKED = "prod"

Table = dict[str, Any]
folders = pytest.mark.parametrize(
    "folder", FOLDERS, ids=[str(folder.relative_to(MANIFESTS)) for folder in FOLDERS]
)


@cache
def built(folder: Path) -> list[Table]:
    """Return what kustomize makes of a folder."""
    kubectl = Path(sys.executable).with_name("kubectl")
    words = [str(kubectl), "kustomize", str(folder)]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [table for table in yaml.safe_load_all(done.stdout) if table]


def test_the_overlays_are_what_raymoe_renders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for path, text in rendered():
        again = "python -m tests.manifests.overlays"
        assert path.read_text(encoding="utf-8") == text, f"{path} is old; write it with {again}"


@folders
def test_kustomize_leaves_the_objects_of_raymoe_as_they_are(folder: Path) -> None:
    own = [path for path in (folder / "training.yaml", folder / "serving.yaml") if path.is_file()]
    made = built(folder)
    for path in own:
        for table in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            assert table in made


@folders
def test_kuberay_and_the_api_server_would_take_them(folder: Path) -> None:
    for table in built(folder):
        assert (
            table["kind"] == "Namespace" or "namespace" in table["metadata"] or cluster_wide(table)
        )
        if table["kind"] in KUBERAY:
            assert faults(table) == check([table]) == []


def cluster_wide(table: Table) -> bool:
    return table["kind"] in ("Namespace", "PriorityClass", "StorageClass", "Queue")


COMPONENTS = sorted(file.parent for file in (MANIFESTS / "components").glob("*/kustomization.yaml"))


def with_component(component: Path, folder: Path) -> list[Table]:
    """Return what kustomize makes of the base with a component."""
    folder.mkdir()
    base, own = (os.path.relpath(each, folder) for each in (MANIFESTS / "base", component))
    table = {"kind": "Kustomization", "namespace": "raymoe"}
    lines = {**table, "resources": [base], "components": [own]}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(lines))
    return built(folder)


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda path: path.name)
def test_a_component_makes_what_its_deployment_file_names(component: Path, tmp_path: Path) -> None:
    """Over the base, for a run that is rendered with its file: nothing that it names is lacking."""
    made = with_component(component, tmp_path / "over")
    said = (component / "kustomization.yaml").read_text(encoding="utf-8")
    there = {(table["kind"], table["metadata"]["name"]) for table in made}
    file = component / "deployment.toml"
    options = load_deployment(
        None,
        ["image.name=a:1", "storage.claim=raymoe-data", "namespace=raymoe"],
        [file] if file.is_file() else [],
    )
    table = job(two_stages(), options)
    assert faults(table) == check([table]) == []
    named = {each for pod in pods([*made, table]) for each in _names(pod)}
    named -= {("ConfigMap", "demo-training")}
    recovery, secret = options.recovery, options.monitoring.history_secret
    if recovery.rocksdb_storage_class:
        named.add(("StorageClass", recovery.rocksdb_storage_class))
    named |= {("Secret", each) for each in (secret, recovery.redis_secret) if each}
    if options.queue.name:
        named.add(
            ("LocalQueue" if options.queue.scheduler == "kueue" else "Queue", options.queue.name)
        )
    lacking = {each for each in named - there if each[0] != "Secret" or each[1] not in said}
    assert lacking == set()
    assert [fault for pod in pods(made) for fault in violations(pod)] == []


def test_there_is_a_component_for_each_of_these() -> None:
    assert {path.name for path in COMPONENTS} == {
        "gcs-ft-redis",
        "gcs-ft-rocksdb",
        "history-server",
        "http-route",
        "kueue",
        "s3",
        "spot",
        "team",
        "volcano",
    }


def test_the_role_of_s3_is_on_the_account_of_the_pods(tmp_path: Path) -> None:
    made = with_component(MANIFESTS / "components" / "s3", tmp_path / "over")
    (account,) = [each for each in made if each["kind"] == "ServiceAccount"]
    assert account["metadata"]["annotations"]["eks.amazonaws.com/role-arn"].endswith("role/raymoe")


def test_prod_is_watched_and_a_cluster_without_prometheus_needs_none_of_it() -> None:
    kinds = {
        overlay: {each["kind"] for each in built(MANIFESTS / "overlays" / overlay)}
        for overlay in OVERLAYS
    }
    watched = {"PodMonitor", "ServiceMonitor", "PrometheusRule"}
    assert {overlay: watched & found for overlay, found in kinds.items()} == {
        "kind-cpu": set(),
        "gpu": set(),
        "prod": watched,
    }


@folders
def test_pods_pass_the_standard_of_their_namespace(folder: Path) -> None:
    found = {fault for pod in pods(built(folder)) for fault in violations(pod)}
    assert found == ({"capabilities.add"} if MEMORY_LOCKED in folder.parts and found else set())


def pods(tables: list[Table]) -> Iterator[Table]:
    """Yield the spec of every pod template, wherever it is."""
    for table in tables:
        yield from _templates(table)


def _templates(node: Any) -> Iterator[Table]:
    if isinstance(node, dict):
        if "containers" in node:
            yield node
        for child in node.values():
            yield from _templates(child)
    elif isinstance(node, list):
        for child in node:
            yield from _templates(child)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_pods_name_is_made_by_the_overlay_or_asked_for_in_its_first_lines(
    overlay: str,
) -> None:
    folder = MANIFESTS / "overlays" / overlay
    every = [
        table
        for each in FOLDERS
        if each == folder or folder in each.parents
        for table in built(each)
    ]
    there = {(table["kind"], table["metadata"]["name"]) for table in every}
    said = (folder / "kustomization.yaml").read_text(encoding="utf-8")
    for kind, name in {named for pod in pods(every) for named in _names(pod)}:
        assert (kind, name) in there or name in said, (kind, name)


def _names(pod: Table) -> Iterator[tuple[str, str]]:
    for volume in pod.get("volumes", ()):
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]
    if "serviceAccountName" in pod:
        yield "ServiceAccount", pod["serviceAccountName"]
    if "priorityClassName" in pod:
        yield "PriorityClass", pod["priorityClassName"]
    for secret in pod.get("imagePullSecrets", ()):
        yield "Secret", secret["name"]
    for box in pod["containers"]:
        for source in box.get("envFrom", ()):
            yield "Secret", source["secretRef"]["name"]


def test_the_network_lets_the_ports_of_the_pods_through_to_those_who_need_them() -> None:
    """The policy selects every pod of a run, and names ports that the head has."""
    policies = [table for table in built(MANIFESTS / "base") if table["kind"] == "NetworkPolicy"]
    (policy,) = policies
    (selector,) = policy["spec"]["podSelector"]["matchExpressions"]
    (job,) = [each for each in built(MANIFESTS / "overlays" / "gpu") if each["kind"] == "RayJob"]
    cluster = job["spec"]["rayClusterSpec"]
    templates = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for each in [*(one["template"] for one in templates), job["spec"]["submitterPodTemplate"]]:
        assert selector["key"] in each["metadata"]["labels"]
    head = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["ports"]
    agent = 52365  # Ray's agent, which KubeRay asks for the health of every pod
    named = {port["port"] for rule in policy["spec"]["ingress"] for port in rule.get("ports", ())}
    assert named <= {port["containerPort"] for port in head} | {agent}
