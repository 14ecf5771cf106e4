"""The verbs of ``raymoe kube`` as they are typed, on an API server in memory."""

import base64
import json
import os
import re
import signal
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.request import Request, urlopen

import pytest
import ray

from cluster.kube.api import Api
from cluster.kube.kinds import RAYJOB
from moe.errors import ClusterError
from pipelines.commands.kube_arguments import Called
from pipelines.commands.kube_runs import run_of
from tests.kube.kubeconfig import lead_to
from tests.kube.server import Store, serving
from tests.kube.tables import cluster, event, pod, unscheduled
from tests.shell import Shell

ROOT = Path(__file__).parents[4]
FILE = ROOT / "manifests" / "overlays" / "kind-cpu" / "training.yaml"
RUN = "smollm2-kind"


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def api(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """A server to which the kubeconfig of the environment leads."""
    with serving(store) as found:
        lead_to(found, tmp_path, monkeypatch)
        yield found


def began(shell: Shell, store: Store, **status: Any) -> None:
    """Apply the run, and play KubeRay."""
    shell.run("kube", "apply", FILE)
    store.find("rayjobs", RUN)["status"] = {"rayClusterName": "demo-abcde", **status}
    store.put(cluster(), "rayclusters")
    for role in ("head", "driver", "submitter"):
        table = pod(f"{RUN}-{role}", role)
        table["metadata"]["labels"]["raymoe/run"] = RUN
        store.put(table, "pods")


def test_apply_says_what_it_did_and_a_dry_run_what_it_would(
    shell: Shell, api: Api, store: Store
) -> None:
    out, _ = shell.run("kube", "apply", FILE, "--dry-run")
    assert f"would be: RayJob/{RUN}: made" in out
    assert store.objects == {}
    assert f"RayJob/{RUN}: made" in shell.run("kube", "apply", FILE)[0]
    assert f"RayJob/{RUN}: as it is" in shell.run("kube", "apply", FILE)[0]


def test_what_is_no_object_of_ours_is_refused(shell: Shell, api: Api, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kind: Deployment\napiVersion: apps/v1\nmetadata: {name: a}\n")
    assert "apps/v1 Deployment is not what raymoe renders" in shell.refused(
        "kube", "apply", tmp_path / "a.yaml"
    )
    (tmp_path / "a.yaml").write_text("- a\n")
    assert "holds no objects" in shell.refused("kube", "apply", tmp_path / "a.yaml")


def test_status_shows_phase_reason_pods_and_events(shell: Shell, api: Api, store: Store) -> None:
    began(shell, store, jobDeploymentStatus="Initializing")
    table = unscheduled("rank-1", "rank", "0/1 nodes are available: 1 Insufficient cpu.")
    table["metadata"]["labels"]["raymoe/run"] = RUN
    store.put(table, "pods")
    store.put(event("rank-1", "FailedScheduling", "no room"), "events")
    ready = {"type": "HeadPodReady", "status": "True", "reason": "HeadPodRunningAndReady"}
    store.find("rayclusters", "demo-abcde")["status"] = {"conditions": [ready]}
    store.logs = {f"{RUN}-submitter": "step 6/20 loss 2.9\nstep 7/20 loss 2.8\n"}
    out, _ = shell.run("kube", "status", RUN)
    assert "its log: step 7/20 loss 2.8" in out
    assert "HeadPodReady RayCluster True HeadPodRunningAndReady" in out
    store.forbidden = {("get", "pods/log")}
    assert "its log" not in shell.run("kube", "status", RUN)[0]
    assert f"RayJob/{RUN} starting (2 of 3 pods): 1 of 4 pods: not scheduled" in out
    assert "no node has so much cpu free" in out
    assert "FailedScheduling" in out
    assert "rank-1" in out


def test_watch_ends_with_the_run_and_fails_with_its_sentence(
    shell: Shell, api: Api, store: Store
) -> None:
    began(shell, store, jobDeploymentStatus="Complete", jobStatus="SUCCEEDED")
    assert "finished" in shell.run("kube", "watch", RUN)[0]
    store.find("rayjobs", RUN)["status"] = {
        "jobStatus": "FAILED",
        "message": "exit code 1\nerror: no model directory at /data/moe",
    }
    code, _, err = shell.typed("kube", "watch", RUN)
    assert code == 1
    assert f"error: RayJob/{RUN} failed: no model directory at /data/moe" in err


def test_logs_are_the_submitter_s_unless_a_role_is_given(
    shell: Shell, api: Api, store: Store
) -> None:
    began(shell, store)
    store.logs = {f"{RUN}-submitter": "step 1\nstep 2\n", f"{RUN}-head": "ray\n"}
    assert shell.run("kube", "logs", RUN)[0] == "step 1 step 2"
    assert shell.run("kube", "logs", RUN, "--tail", 1)[0] == "step 2"
    assert shell.run("kube", "logs", RUN, "--role", "head")[0] == "ray"
    refused = shell.refused("kube", "logs", RUN, "--role", "rank")
    assert "no pod of role rank now, but of driver, head, submitter" in refused


def test_the_token_is_printed_alone(shell: Shell, api: Api, store: Store) -> None:
    began(shell, store)
    data = {"auth_token": base64.b64encode(b"secret").decode()}
    store.put({"apiVersion": "v1", "metadata": {"name": "demo-abcde"}, "data": data}, "secrets")
    assert shell.run("kube", "token", RUN)[0] == "secret"


def test_a_deleted_run_is_gone(shell: Shell, api: Api, store: Store) -> None:
    shell.run("kube", "apply", FILE)
    assert f"RayJob/{RUN}: deleted" in shell.run("kube", "delete", RUN)[0]
    assert store.objects == {}
    refused = shell.refused("kube", "status", RUN)
    assert f"namespace raymoe has no RayJob or RayService called {RUN}" in refused


def test_the_files_of_a_run_that_kuberay_has_forgotten_go_too(
    shell: Shell, api: Api, store: Store
) -> None:
    shell.run("kube", "apply", FILE)
    store.remove(next(key for key in store.objects if key[1] == "rayjobs"))
    assert "no RayJob or RayService" in shell.refused("kube", "delete", RUN)
    shell.run("kube", "delete", RUN, "--job")
    assert store.objects == {}


def test_doctor_fails_where_a_check_does(shell: Shell, api: Api) -> None:
    file = ROOT / "manifests" / "deployments" / "kind-cpu.toml"
    code, out, err = shell.typed("kube", "doctor", "--deployment", file)
    assert code == 1
    assert "definition of rayjobs" in out
    assert "the first: definition of rayclusters: not installed; install KubeRay" in err


def test_a_right_that_is_lacking_is_one_line(shell: Shell, api: Api, store: Store) -> None:
    store.forbidden = {("get", "configmaps")}
    refused = shell.refused("kube", "apply", FILE)
    assert 'cannot get resource "configmaps"; ask for that right' in refused


def test_without_a_cluster_it_says_so(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = str(tmp_path / "none")
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", nothing)
    assert "the kubeconfig, which cannot be used" in shell.refused("kube", "status", RUN)


class _Dashboard(BaseHTTPRequestHandler):
    """Takes jobs from whoever shows the token, as Ray's dashboard does."""

    jobs: ClassVar[list[dict[str, Any]]] = []

    def do_GET(self) -> None:
        versions = {"version": "4", "ray_version": ray.__version__, "ray_commit": "", "session": ""}
        self._say(versions if self.path.endswith("version") else [])

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.jobs.append(body)
        self._say({"job_id": "1", "submission_id": body["submission_id"]})

    def _say(self, table: Any) -> None:
        known = self.headers.get("Authorization") == "Bearer secret"
        body = json.dumps(table if known else "no token").encode()
        self.send_response(200 if known else 401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        """Say nothing."""


@pytest.fixture
def head(shell: Shell, api: Api, store: Store) -> Iterator[ThreadingHTTPServer]:
    """The dashboard of a run, behind the port of its head."""
    began(shell, store)
    data = {"auth_token": base64.b64encode(b"secret").decode()}
    store.put({"apiVersion": "v1", "metadata": {"name": "demo-abcde"}, "data": data}, "secrets")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Dashboard) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        store.ports[f"{RUN}-head", 8265] = int(server.server_address[1])
        yield server
        server.shutdown()


def test_the_dashboard_is_here_until_an_interrupt(
    head: ThreadingHTTPServer, tmp_path: Path
) -> None:
    """In a process of its own, which is interrupted as by Ctrl-C."""
    words = [sys.executable, "-m", "pipelines.cli", "kube", "dashboard", RUN, "--port", "0"]
    env = os.environ | {"KUBECONFIG": str(tmp_path / "kubeconfig")}
    pipe = subprocess.PIPE
    with subprocess.Popen(words, cwd=ROOT, env=env, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        first, secret, how = (process.stdout.readline().strip() for _ in range(3))
        found = re.fullmatch(rf"dashboard of {RUN} at (http://127\.0\.0\.1:\d+); its token:", first)
        assert found is not None, first
        assert secret == "secret"
        assert how.endswith(f"RAY_AUTH_TOKEN=$(raymoe kube token {RUN} -n raymoe)")
        asked = Request(f"{found[1]}/api/version", headers={"Authorization": "Bearer secret"})
        with urlopen(asked, timeout=30) as answer:
            assert json.load(answer)["ray_version"] == ray.__version__
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


def test_a_run_is_sent_to_the_head_with_its_token(
    head: ThreadingHTTPServer, tmp_path: Path
) -> None:
    """In a process of its own: Ray reads its token when it is imported."""
    run = ROOT / "manifests" / "runs" / "skywork-gang.toml"
    words = [sys.executable, "-m", "pipelines.cli", "kube", "submit", str(run), "--on", RUN]
    done = subprocess.run(
        [*words, "--detach", "--resume-if-saved"],
        cwd=ROOT,
        env=os.environ | {"KUBECONFIG": str(tmp_path / "kubeconfig")},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "code: that of the image (not sent)" in done.stdout
    (job,) = _Dashboard.jobs
    assert (
        f"`raymoe jobs logs {job['submission_id']} --address 127.0.0.1:8265` follows it, while "
        f"`raymoe kube dashboard {RUN} -n raymoe` runs"
    ) in " ".join(done.stdout.split())
    assert job["entrypoint"].endswith("train /dev/stdin --resume-if-saved")
    assert job["metadata"]["model"] == "/data/models/skywork-moe"
    assert "working_dir" not in job["runtime_env"]
    sent = tomllib.loads(job["runtime_env"]["env_vars"]["RAYMOE_RUN"])
    assert sent["cluster"]["driver_labels"] == {"raymoe/role": "driver"}


def test_a_resize_is_of_a_run_that_is_there_and_of_one_wish(
    shell: Shell, api: Api, store: Store
) -> None:
    assert "0 of --replicas, --plan and --nodes" in shell.refused("kube", "scale", RUN)
    shell.run("kube", "apply", ROOT / "manifests/overlays/kind-cpu/serving/serving.yaml")
    words = ("kube", "scale", RUN, "--replicas", 2)
    assert f"namespace raymoe has no RayJob called {RUN}" in shell.refused(*words)
    shell.run("kube", "apply", FILE)
    assert "has no Ray cluster yet" in shell.refused(*words)


def test_the_run_of_a_job_is_the_one_of_its_file(shell: Shell, api: Api, store: Store) -> None:
    shell.run("kube", "apply", FILE)
    job = Called(api, RAYJOB, "raymoe", RUN)
    assert run_of(job) == RUN
    del store.find("configmaps", f"{RUN}-training")["data"]["run.toml"]
    with pytest.raises(ClusterError, match="say by --run what the run is called"):
        run_of(job)
