"""A run on a cluster that has no node for its ranks until Ray's own autoscaler starts some.

The autoscaler (v2) is real, and so are the raylets of the nodes that it starts on this machine. Run
as a program, so that the session of the other tests is not disturbed. What it saw goes to a JSON
file.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["RAY_AUTH_MODE"] = "disabled"

import psutil
import ray
import tomli_w
from ray._private.services import get_node_ip_address

from actors.crew import ending
from cluster.session import NAMESPACE
from moe.checkpoint.reader import Checkpoint
from moe.planning.plan.file import save_plan
from tests import material, runs
from tests.ray.conftest import free_port
from tests.soak import processes

SECONDS = 110.0
IDLE_MINUTES = 0.1
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
"""Starts nodes on this machine. Named as one of somebody else's: Ray's wheel lacks its defaults."""

HEAD = "f" * 56
"""The number that Ray's provider of local nodes expects of the head."""

Told = dict[str, Any]


class Scene:
    """The cluster, the run on it, and what is seen of both."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._deadline = time.monotonic() + SECONDS
        processes.mark()
        self._address = f"{get_node_ip_address()}:{free_port()}"
        self._head = subprocess.Popen(self._words(), env=os.environ | _environment())
        self._until(self._joined)

    def play(self) -> Told:
        """Train on nodes that are not there, and wait until they have gone again."""
        began = time.monotonic()
        told: Told = {"before": self._workers(), "most": 0}
        file = self._folder / "run.toml"
        file.write_text(tomli_w.dumps(self._run()))
        words = [sys.executable, "-m", "pipelines.cli", "train", str(file)]
        with (self._folder / "lines.txt").open("w") as lines:
            run = subprocess.Popen(words, stdout=lines, stderr=subprocess.STDOUT)

        def ended() -> bool:
            told["most"] = max(told["most"], self._workers())
            return run.poll() is not None

        self._until(ended)
        told |= {"code": run.returncode, "left": ending.running("grown")}
        self._until(lambda: self._workers() == 0)
        return told | {"after": self._workers(), "seconds": time.monotonic() - began}

    def close(self) -> None:
        """End the cluster, with the nodes that its autoscaler has started."""
        if ray.is_initialized():
            ray.shutdown()
        own = [*processes.marked()]
        for process in own:
            process.kill()
        psutil.wait_procs(own, timeout=10)

    def _words(self) -> list[str]:
        config = json.dumps(_autoscaling(self._address))
        (self._folder / "autoscaling.json").write_text(config)
        ray_ = Path(sys.executable).with_name("ray")
        host, port = self._address.split(":")
        words = [str(ray_), "start", "--head", "--block", "--num-cpus=0", "--disable-usage-stats"]
        words += [f"--node-ip-address={host}", f"--port={port}", "--include-dashboard=false"]
        words += [f"--autoscaling-config={self._folder / 'autoscaling.json'}"]
        return [*words, f"--object-store-memory={80 * 2**20}"]

    def _run(self) -> Told:
        """Return a run of two stages that waits for its nodes."""
        folder = material.make(self._folder)
        table = material.run_table(folder, self._folder / "run", 3) | {"name": "grown"}
        config = Checkpoint.open(folder / "model").config
        save_plan(runs.plan(config, (2, 1)), self._folder / "plan.toml")
        table["plan"] = {"path": str(self._folder / "plan.toml")}
        table["cluster"] |= {"address": self._address, "wait_seconds": SECONDS}
        return table

    def _joined(self) -> bool:
        try:
            ray.init(self._address, namespace=NAMESPACE, log_to_driver=False)
        except (ConnectionError, RuntimeError):
            return False
        return True

    def _workers(self) -> int:
        """Return how many nodes live beside the head."""
        table: list[Told] = ray.nodes()
        return sum(bool(row["Alive"]) and bool(row["Resources"].get("CPU")) for row in table)

    def _until(self, there: Callable[[], bool]) -> None:
        while not there():
            if time.monotonic() > self._deadline:
                raise TimeoutError(f"not within {SECONDS:g} s")
            time.sleep(0.5)


def _autoscaling(address: str) -> Told:
    """Return Ray's configuration of a cluster that may have nodes for one rank each."""
    node = {"CPU": 1, "object_store_memory": 80 * 2**20}
    rank = {"resources": node, "node_config": {}, "min_workers": 0, "max_workers": 3}
    head: Told = {"resources": {}, "node_config": {}, "max_workers": 0}
    return {
        "cluster_name": "local",
        "max_workers": 3,
        "idle_timeout_minutes": IDLE_MINUTES,
        "provider": {
            "type": "external",
            "module": PROVIDER,
            "head_node_id": HEAD,
            "gcs_address": address,
            "launch_multiple": True,
        },
        "available_node_types": {"ray.head.default": head, "rank": rank},
        "head_node_type": "ray.head.default",
        "upscaling_speed": 1.0,
        **{f"{words}setup_commands": [] for words in ("", "head_", "worker_")},
        **{f"{words}_start_ray_commands": [] for words in ("head", "worker")},
        **{words: [] for words in ("initialization_commands", "cluster_synced_files")},
        **{words: {} for words in ("auth", "docker", "file_mounts")},
    }


def _environment() -> dict[str, str]:
    return {
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
    }


def main() -> None:
    """Write what was seen."""
    folder = Path(sys.argv[1])
    scene = Scene(folder)
    try:
        told = scene.play()
    finally:
        scene.close()
    (folder / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
