"""A run on a cluster whose nodes come and go: the command line beside real raylets.

One node is started and stopped as Kubernetes does with a pod. Run as a program, so that the session
of the other tests is not disturbed. What it saw goes to a JSON file.
"""

import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["RAY_AUTH_MODE"] = "disabled"

import ray
import tomli_w
from ray._private.state import state
from ray.cluster_utils import Cluster

from actors.crew import ending
from actors.crew.roster import roster
from cluster.journal import read
from cluster.kuberay.pods import NOTICE
from cluster.session import NAMESPACE
from cluster.watch import NodeWatch
from moe.errors import DataError
from tests import material
from tests.ray.scenarios import FAST

SECONDS = 240
PATIENCE = 90.0
NOTICE_SECONDS = 40
DRIVER = {"raymoe/role": "driver"}
"""The label of the node that is for the driver alone, as on Kubernetes."""
NODE = {"num_cpus": 2, "object_store_memory": 80 * 2**20}

Told = dict[str, Any]


def run_table(folder: Path, address: str) -> Told:
    """Return a run of one or two replicas of two stages that follows its nodes."""
    table = material.run_table(material.make(folder), folder / "run", 100_000) | {"name": "elastic"}
    table["train"] |= {"global_batch": 8}
    table["plan"] |= {"replicas": 2, "least_replicas": 1}
    table["cluster"] |= {"address": address, "driver_labels": DRIVER}
    table["elastic"] = {"follow_nodes": True, "copy_every": 2}
    return table


class Scene:
    """The cluster, the run on it, and what is seen of both."""

    def __init__(self, folder: Path) -> None:
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": FAST}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._driver = self._cluster.add_node(num_cpus=0, labels=DRIVER).node_id
        self._cluster.add_node(**NODE)
        ray.init(address=self._cluster.address, namespace=NAMESPACE, log_to_driver=False)
        self._watch = NodeWatch()
        self._journal = folder / "run" / "journal.jsonl"
        file = folder / "run.toml"
        file.write_text(tomli_w.dumps(run_table(folder, self._cluster.address)))
        words = [sys.executable, "-m", "pipelines.cli", "train", str(file)]
        with (folder / "lines.txt").open("w") as lines:
            self._process = subprocess.Popen(words, stdout=lines, stderr=subprocess.STDOUT)

    def play(self) -> Told:
        """Have nodes come and go, and tell how the ranks followed."""
        self._until(lambda: self.done() > 4)
        told: Told = {"began": self.ranks(), "drivers": self._drivers()}
        told |= {"for drivers": self._driver}
        pod, node = self._pod()
        self._until(lambda: self._resized() == 1)
        told |= {"pod": node, "grown": self._on()}
        spare = self._cluster.add_node(**NODE)
        pod.terminate()
        began = time.monotonic()
        self._until(lambda: bool(self._watch.leaving()))
        told |= {"notice": self._watch.leaving()[0].seconds, "noticed": time.monotonic() - began}
        self._until(lambda: pod.poll() is not None)
        told |= {"pod_seconds": time.monotonic() - began, "events": self.events()}
        told |= {"spare": spare.node_id, "moved": self._on()}
        spare.kill_raylet()
        self._until(lambda: self._resized() == 3)
        return told | {"shrunk": self._on(), "steps": self.done()}

    def close(self) -> Told:
        """End the run and the cluster; tell what the run left."""
        self._process.terminate()
        self._process.wait(60)
        left = ending.running("elastic")
        self._watch.close()
        ray.shutdown()
        self._cluster.shutdown()
        return {"left": left}

    def done(self) -> int:
        """Return how many steps are recorded."""
        return max((each["step"] for each in self._records() if "loss" in each), default=0)

    def events(self) -> list[Told]:
        """Return what the run tells beside its steps and copies."""
        events = (each for each in self._records() if "event" in each)
        return [each for each in events if each["event"] != "copies"]

    def ranks(self) -> dict[str, tuple[int, str]]:
        """Return process and node of each rank, by its seat."""
        lives = roster("elastic", 10.0)
        return {
            str(seat): (life.tell("status").result(10).pid, life.place.node)
            for seat, life in sorted(lives.items())
        }

    def _on(self) -> dict[str, tuple[int, str]]:
        """Let a few steps be done, and return the ranks then."""
        done = self.done()
        self._until(lambda: self.done() > done + 2)
        return self.ranks()

    def _drivers(self) -> list[str]:
        """Return the nodes of Ray Train's workers."""
        table: Told = state.actor_table(None, actor_state_name="ALIVE")
        workers = [row for row in table.values() if row["ActorClassName"] == "RayTrainWorker"]
        return [str(row["Address"]["NodeID"]) for row in workers]

    def _pod(self) -> tuple["subprocess.Popen[bytes]", str]:
        """Start a node as KubeRay does in a pod; return its main process and its number."""
        before = self._watch.nodes.living
        ray_ = Path(sys.executable).with_name("ray")
        start = f"ulimit -n 4096; {ray_} start --address={self._cluster.address} --block"
        start += f" --num-cpus=2 --object-store-memory={NODE['object_store_memory']}"
        pod = subprocess.Popen(
            ["/bin/bash", "-c", "--", f"{start} --disable-usage-stats"],
            env=os.environ | {NOTICE: str(NOTICE_SECONDS)},
            stdout=subprocess.DEVNULL,
        )
        self._until(lambda: self._watch.nodes.living > before)
        (node,) = self._watch.nodes.living - before
        return pod, node

    def _resized(self) -> int:
        """Return how often the run has changed its plan, or where its ranks are."""
        return sum(each["event"] == "resized" and each["changed"] for each in self.events())

    def _records(self) -> list[Told]:
        try:
            return list(read(self._journal))
        except DataError:
            return []

    def _until(self, there: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not there():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the run ended with {self._process.returncode}, or is late")
            time.sleep(0.2)


def main() -> None:
    """Write what was seen."""
    folder = Path(sys.argv[1])
    scene = Scene(folder)
    try:
        told = scene.play()
    except BaseException:
        told = {"failed": traceback.format_exc(), "events": scene.events()}
    told |= scene.close()
    (folder / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
