"""Nodes from a dump and, through the official client, from a server that lists them by pages."""

import json
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest
import yaml

from cluster.kube.api import Api
from cluster.kube.connection import connect
from cluster.kubernetes_nodes import (
    inventory_of_nodes,
    left_out,
    load_nodes,
    node_selectors,
    read_nodes,
)
from moe.errors import ClusterError
from moe.planning.devices.inventory import Device

GIB = 2**30


def node(
    name: str,
    cpu: str = "7910m",
    memory: str = "32Gi",
    gpus: int = 0,
    product: str = "NVIDIA-A100-SXM4-80GB",
    **changes: Any,
) -> dict[str, Any]:
    """Return a node in the shape of the API, with what the tests do not read as well."""
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/arch": "amd64"}
    allocatable = {"cpu": cpu, "memory": memory, "pods": "110", "ephemeral-storage": "93478772582"}
    if gpus:
        labels |= {"nvidia.com/gpu.product": product, "nvidia.com/gpu.count": str(gpus)}
        allocatable["nvidia.com/gpu"] = str(gpus)
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "uid": "7f2b9a4e-4b0c-4f3e-9d0a-5f3f5b2c1a10",
            "resourceVersion": "812",
            "creationTimestamp": "2026-11-20T08:00:00Z",
            "labels": labels | changes.get("labels", {}),
        },
        "spec": {"podCIDR": "10.244.1.0/24", "providerID": f"kind://{name}"}
        | changes.get("spec", {}),
        "status": {
            "capacity": {**allocatable, "cpu": "8"},
            "allocatable": allocatable | changes.get("allocatable", {}),
            "conditions": changes.get("conditions", [condition()]),
            "addresses": [{"type": "InternalIP", "address": "172.18.0.3"}],
            "nodeInfo": {
                "architecture": "amd64",
                "bootID": "b",
                "containerRuntimeVersion": "containerd://2.1.0",
                "kernelVersion": "6.1.0",
                "kubeProxyVersion": "v1.36.0",
                "kubeletVersion": "v1.36.0",
                "machineID": "m",
                "operatingSystem": "linux",
                "osImage": "Debian",
                "systemUUID": "s",
            },
        },
    }


def condition(status: str = "True", reason: str = "KubeletReady") -> dict[str, Any]:
    times = dict.fromkeys(("lastHeartbeatTime", "lastTransitionTime"), "2026-11-20T08:00:00Z")
    return {"type": "Ready", "status": status, "reason": reason, "message": "", **times}


def taint(key: str, effect: str, value: str | None = None) -> dict[str, Any]:
    given = {"key": key, "effect": effect} | ({"value": value} if value else {})
    return {"spec": {"taints": [given]}}


def test_unlike_gpus_and_counts_become_devices_with_the_memory_of_their_labels() -> None:
    memory = {"labels": {"nvidia.com/gpu.memory": "24564"}}
    nodes = [
        node("b", "96", "512Gi", 2, "NVIDIA-H100-80GB-HBM3"),
        node("a", "15900m", "64Gi", 1, "NVIDIA-GeForce-RTX-4090", **memory),
    ]
    assert inventory_of_nodes(nodes).devices == (
        Device("a/gpu0", "a", "4090", 24564 * 2**20, threads=15, host_bytes=64 * GIB),
        Device("b/gpu0", "b", "H100", 80 * GIB, threads=48, host_bytes=256 * GIB),
        Device("b/gpu1", "b", "H100", 80 * GIB, threads=48, host_bytes=256 * GIB),
    )
    assert left_out(nodes) == ()


def test_without_gpus_cores_become_devices_that_share_the_memory() -> None:
    nodes = [node("a", "7910m", "6Gi"), node("b", "2", "4000000Ki"), node("c", "1", "1Gi")]
    assert inventory_of_nodes(nodes, threads=2).devices == (
        *(Device(f"a/cpu{number}", "a", "cpu", 2 * GIB, threads=2) for number in range(3)),
        Device("b/cpu0", "b", "cpu", 4_000_000 * 1024, threads=2),
    )
    assert [(each.node, each.reason) for each in left_out(nodes, threads=2)] == [
        ("c", "it offers 1 CPUs, a device takes 2")
    ]
    assert len(inventory_of_nodes(nodes, threads=None).devices) == 3


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"spec": {"unschedulable": True}}, "cordoned"),
        ({"conditions": [condition("False", "KubeletNotReady")]}, r"not ready \(KubeletNotReady\)"),
        ({"conditions": [condition("Unknown", "NodeStatusUnknown")]}, "not ready"),
        ({"conditions": []}, r"not ready \(it reports nothing\)"),
        (taint("node-role.kubernetes.io/control-plane", "NoSchedule"), "control-plane:NoSchedule"),
        (taint("team", "NoSchedule", "vision"), "team=vision:NoSchedule keeps pods away"),
        (taint("team", "NoExecute"), "team:NoExecute"),
        (taint("nvidia.com/gpu", "NoExecute"), "nvidia.com/gpu:NoExecute"),
        ({"labels": {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB-MIG-1g.10gb"}}, "slices"),
        ({"labels": {"nvidia.com/gpu.product": "Tesla-T4-SHARED"}}, "time-shared"),
        ({"allocatable": {"nvidia.com/gpu": "0"}}, "it has no GPU, other nodes have"),
    ],
)
def test_what_cannot_be_used_is_left_out_with_the_reason(
    changes: dict[str, Any], reason: str
) -> None:
    nodes = [node("bad", gpus=8, **changes), node("good", gpus=1)]
    assert [device.node for device in inventory_of_nodes(nodes).devices] == ["good"]
    (found,) = left_out(nodes)
    assert found.node == "bad"
    assert re.search(reason, found.reason)
    if "no GPU" not in reason:
        with pytest.raises(ClusterError, match=f"none of the 1 Kubernetes nodes .*bad: .*{reason}"):
            inventory_of_nodes(nodes[:1])


@pytest.mark.parametrize(
    "changes", [taint("nvidia.com/gpu", "NoSchedule", "present"), taint("team", "PreferNoSchedule")]
)
def test_the_taint_of_gpu_nodes_and_mere_preferences_keep_nothing_out(
    changes: dict[str, Any],
) -> None:
    nodes = [node("a", gpus=2, **changes)]
    assert len(inventory_of_nodes(nodes).devices) == 2
    assert left_out(nodes) == ()


def test_labels_of_clouds_tell_the_kind_too() -> None:
    gke = {"cloud.google.com/gke-accelerator": "nvidia-l4"}
    karpenter = {
        "karpenter.k8s.aws/instance-gpu-name": "a10g",
        "karpenter.k8s.aws/instance-gpu-memory": "24576",
    }
    cloud = [
        node(name, labels=labels, allocatable={"nvidia.com/gpu": "1"})
        for name, labels in (("gke", gke), ("karpenter", karpenter))
    ]
    assert [(each.kind, each.memory_bytes) for each in inventory_of_nodes(cloud).devices] == [
        ("L4", 24 * GIB),
        ("A10G", 24 * GIB),
    ]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            node("a", allocatable={"nvidia.com/gpu": "1"}),
            "no label names the kind of its 1 NVIDIA GPUs.*--inventory",
        ),
        (node("a", gpus=1, product="NVIDIA-New"), "kind NVIDIA-New, whose memory is not known"),
        (node("a", memory="64Gb"), "node a gives '64Gb' for allocatable memory"),
        (node("a", cpu="many"), "node a gives 'many' for allocatable cpu"),
        (node("a", gpus=1, labels={"nvidia.com/gpu.memory": "x"}), "label of GPU memory"),
        ({"kind": "Node", "metadata": {}}, "no metadata.name"),
    ],
)
def test_what_cannot_be_read_is_an_error(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ClusterError, match=message):
        inventory_of_nodes([bad])


def test_no_nodes_at_all_are_an_error() -> None:
    with pytest.raises(ClusterError, match=r"none of the 0 .*there is none"):
        inventory_of_nodes([])


def test_dumps_are_read_as_json_and_yaml_lists_and_single_nodes(tmp_path: Path) -> None:
    nodes = [node("a", gpus=1), node("b", gpus=4)]
    path = tmp_path / "nodes"
    listed = {"apiVersion": "v1", "kind": "List", "items": nodes, "metadata": {}}
    bare = [{key: each[key] for key in ("metadata", "spec", "status")} for each in nodes]
    for text, wanted in (
        (json.dumps(listed, indent=4), nodes),
        (yaml.safe_dump(listed), nodes),
        (json.dumps({"kind": "NodeList", "items": bare}), bare),
        (json.dumps(nodes[1]), nodes[1:]),
    ):
        path.write_text(text, encoding="utf-8")
        assert load_nodes(path) == wanted
        assert inventory_of_nodes(load_nodes(path)) == inventory_of_nodes(wanted)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{", "cannot be read"),
        ("\xff\x00", "cannot be read"),
        ("- 1", "holds no object"),
        ('{"items": 3}', "no list"),
        ('{"items": [3]}', "holds a int"),
        ('{"kind": "List", "items": [{"kind": "Pod"}]}', "holds a Pod"),
        ('{"kind": "Pod", "metadata": {"name": "a"}}', "holds a Pod"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, found: str) -> None:
    path = tmp_path / "nodes.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ClusterError, match=rf"(?s)should hold Kubernetes nodes but .*{found}"):
        load_nodes(path)
    with pytest.raises(ClusterError, match="cannot be read"):
        load_nodes(tmp_path / "absent")


class Server(ThreadingHTTPServer):
    """Lists nodes as an API server does: ``page`` at a time, to who brings the token."""

    daemon_threads = True
    nodes: list[dict[str, Any]]
    page = 2
    asked: list[str]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        address = urlparse(self.path)
        self.server.asked.append(self.path)
        if self.headers.get("Authorization") != "Bearer right":
            reason = 'nodes is forbidden: User "x" cannot list resource "nodes"'
            self._answer(403, {"kind": "Status", "status": "Failure", "message": reason})
            return
        assert address.path == "/api/v1/nodes"
        start = int(parse_qs(address.query).get("continue", ["0"])[0])
        stop = start + self.server.page
        more = {"continue": str(stop)} if stop < len(self.server.nodes) else {}
        bare = [
            {key: value for key, value in each.items() if key not in ("kind", "apiVersion")}
            for each in self.server.nodes[start:stop]
        ]
        listed = {"kind": "NodeList", "apiVersion": "v1", "items": bare}
        self._answer(200, {**listed, "metadata": {"resourceVersion": "9", **more}})

    def _answer(self, status: int, table: dict[str, Any]) -> None:
        text = json.dumps(table).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


class Page(Handler):
    """Asks people to log in, as a proxy does."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>log in</html>")


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server(("127.0.0.1", 0), Handler)
    made.nodes, made.asked = [node("a", gpus=1), node("b", "4"), node("c", gpus=8)], []
    thread = Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def kubeconfig(path: Path, server: Server) -> Path:
    """Write one with two contexts: the current one has the token, ``stranger`` a wrong one."""
    url = f"http://127.0.0.1:{server.server_address[1]}"
    users = {"owner": "right", "stranger": "wrong"}
    contexts = [{"name": name, "context": {"cluster": "c", "user": name}} for name in users]
    table = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "owner",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "contexts": contexts,
        "users": [{"name": name, "user": {"token": token}} for name, token in users.items()],
    }
    path.write_text(yaml.safe_dump(table), encoding="utf-8")
    return path


def test_the_client_reads_all_pages_and_loses_nothing(tmp_path: Path, server: Server) -> None:
    nodes = read_nodes(Api(connect(kubeconfig=kubeconfig(tmp_path / "config", server))))
    assert len(server.asked) == 2
    assert inventory_of_nodes(nodes) == inventory_of_nodes(server.nodes)
    assert left_out(nodes) == left_out(server.nodes)
    path = tmp_path / "nodes.json"
    path.write_text(json.dumps({"kind": "NodeList", "items": nodes}), encoding="utf-8")
    assert inventory_of_nodes(load_nodes(path)) == inventory_of_nodes(server.nodes)


def test_who_may_not_list_nodes_is_told_so(tmp_path: Path, server: Server) -> None:
    path = kubeconfig(tmp_path / "config", server)
    with pytest.raises(ClusterError, match=r"127\.0\.0\.1:\d+ did not list its nodes: 403"):
        read_nodes(Api(connect("stranger", path)))


def test_a_server_that_is_away_and_a_context_that_is_not_there_are_told(
    tmp_path: Path, server: Server
) -> None:
    path = kubeconfig(tmp_path / "config", server)
    with pytest.raises(ClusterError, match=r"asked for context nobody of .*config.*cannot be used"):
        connect("nobody", path)
    with pytest.raises(ClusterError, match=r"asked for .*absent, which cannot be used"):
        connect(kubeconfig=tmp_path / "absent")
    table = yaml.safe_load(path.read_text())
    table["clusters"][0]["cluster"]["server"] = "http://127.0.0.1:9"
    path.write_text(yaml.safe_dump(table))
    with pytest.raises(ClusterError, match=r"127\.0\.0\.1:9 did not answer 5 times"):
        read_nodes(Api(connect(kubeconfig=path), sleep=lambda _: None))


def test_a_page_in_the_place_of_an_api_server_is_told(tmp_path: Path, server: Server) -> None:
    server.RequestHandlerClass = Page
    with pytest.raises(ClusterError, match="did not answer GET /api/v1/nodes as an API server"):
        read_nodes(Api(connect(kubeconfig=kubeconfig(tmp_path / "config", server))))


def amd(name: str, gpus: int = 8, **labels: str) -> dict[str, Any]:
    """Return a node with GPUs of AMD, as its node labeller labels it."""
    return node(name, "96", "1000Gi", labels=labels, allocatable={"amd.com/gpu": str(gpus)})


MI300X = {
    "amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM",
    "amd.com/gpu.vram": "192G",
}


def test_gpus_of_amd_are_devices_of_the_kind_and_memory_of_their_labels() -> None:
    nodes = [amd("a", 2, **MI300X)]
    assert inventory_of_nodes(nodes).devices == tuple(
        Device(f"a/gpu{number}", "a", "MI300X", 192 * 10**9, threads=48, host_bytes=500 * GIB)
        for number in range(2)
    )
    assert left_out(nodes) == ()


def test_gpus_whose_kind_nothing_names_are_no_cpus() -> None:
    with pytest.raises(ClusterError, match=r"no label names the kind .* 8 AMD GPUs.*--inventory"):
        inventory_of_nodes([amd("a"), node("c")])
    nodes = [amd("a"), node("b", gpus=1)]
    assert [device.name for device in inventory_of_nodes(nodes).devices] == ["b/gpu0"]
    (found,) = left_out(nodes)
    assert str(found).startswith("left out node a: no label names the kind of its 8 AMD GPUs")


def test_of_two_vendors_the_gpus_that_are_more_are_used() -> None:
    nodes = [amd("a", 2, **MI300X), node("b", gpus=4)]
    assert {device.kind for device in inventory_of_nodes(nodes).devices} == {"A100-80G"}
    (found,) = left_out(nodes)
    assert found.node == "a"
    assert "its 2 AMD GPUs (MI300X) cannot communicate with the GPUs of other nodes" in found.reason
    assert "RCCL, NCCL" in found.reason


@pytest.mark.parametrize(
    "resource",
    [
        "habana.ai/gaudi",
        "google.com/tpu",
        "aws.amazon.com/neuroncore",
        "gpu.intel.com/xe",
        "huawei.com/Ascend910",
        "nvidia.com/mig-1g.10gb",
        "nvidia.com/gpu.shared",
    ],
)
def test_accelerators_that_no_rank_can_use_are_told(resource: str) -> None:
    """Their nodes are planned for by their cores, or left out where other nodes have GPUs."""
    odd = node("g", "4", allocatable={resource: "8", "rdma/hca": "1"})
    assert {device.kind for device in inventory_of_nodes([odd]).devices} == {"cpu"}
    (found,) = left_out([odd])
    assert found.reason == (
        f"its 8 {resource} cannot be used: ranks compute on CPUs and on whole NVIDIA or AMD GPUs; "
        "its 4 CPU cores are planned for"
    )
    assert str(found).startswith("left out on node g: its 8 ")
    (found,) = left_out([odd, node("n", gpus=1)])
    assert found.reason.startswith("it has no GPU, other nodes have")
    assert f"its 8 {resource} cannot be used" in found.reason


def test_the_taint_of_amd_gpus_keeps_nothing_out() -> None:
    tainted = amd("a", 1, **MI300X) | taint("amd.com/gpu", "NoSchedule")
    assert len(inventory_of_nodes([tainted]).devices) == 1


def test_nodes_of_a_kind_are_selected_by_the_label_that_they_share() -> None:
    nodes = [
        node("a", gpus=4),
        node("b", gpus=4),
        node("c", gpus=4, product="NVIDIA-L40S", spec={"unschedulable": True}),
        node("d", gpus=4, product="NVIDIA-L40S-48GB"),
        node("e", gpus=4, product="NVIDIA-L40S"),
        node("f"),
    ]
    assert node_selectors(nodes) == {
        "A100-80G": {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"},
        "L40S": {},
    }
