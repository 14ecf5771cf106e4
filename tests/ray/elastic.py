"""A run on a cluster that gains a node and loses it again: the command line beside real raylets.

Run as a program, so that the session of the other tests is not disturbed. Nodes for replicas carry
the custom resource ``replica``. What it saw goes to a JSON file.
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
from ray.cluster_utils import Cluster

from actors.crew import ending
from actors.crew.roster import roster
from cluster.session import NAMESPACE
from moe.errors import DataError
from pipelines.training.recording import recorded_steps
from tests import material
from tests.ray.scenarios import FAST

SECONDS = 300
RANKS = 2
WORKER = {"num_cpus": 2, "resources": {"replica": 1}, "object_store_memory": 80 * 2**20}


def run_table(folder: Path, address: str) -> dict[str, Any]:
    """Return a run of long steps with one or two replicas of two stages."""
    table = material.run_table(material.make(folder), folder / "run", 100_000) | {"name": "elastic"}
    table["train"] |= {"global_batch": 32, "warmup_steps": 50}
    table["plan"] |= {"replicas": 2, "least_replicas": 1}
    table["checkpoint"] |= {"every": 5}
    table["cluster"] |= {
        "address": address,
        "worker_resources": {"replica": 1.0},
        "resize_seconds": 1.0,
        "max_failures": 3,
    }
    return table


def steps(folder: Path) -> int:
    """Return how many steps are recorded."""
    try:
        return len(recorded_steps(folder / "run"))
    except DataError:
        return 0


def until(there: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    """Wait for something to become true while the command line runs."""
    deadline = time.monotonic() + SECONDS
    while not there():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the run ended with {process.returncode} or took too long")
        time.sleep(0.2)


def replicas() -> int:
    """Return of how many replicas actors are alive."""
    return len(roster("elastic", 10.0)) // RANKS


def watch(folder: Path) -> dict[str, Any]:
    """Let the run begin with one replica, grow to two and shrink to one."""
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": FAST},
    )
    cluster.add_node(**WORKER)
    ray.init(address=cluster.address, namespace=NAMESPACE, log_to_driver=False)
    file = folder / "run.toml"
    file.write_text(tomli_w.dumps(run_table(folder, cluster.address)))
    words = [sys.executable, "-m", "pipelines.cli", "train", str(file)]
    seen = []
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
        try:
            until(lambda: steps(folder) > 6, process)
            seen.append((replicas(), steps(folder)))
            second = cluster.add_node(**WORKER)
            until(lambda: replicas() == 2, process)
            grown = steps(folder)
            until(lambda: steps(folder) > grown + 6, process)
            seen.append((replicas(), steps(folder)))
            second.kill_raylet()
            until(lambda: replicas() == 1, process)
            shrunk = steps(folder)
            until(lambda: steps(folder) > shrunk + 6, process)
            seen.append((replicas(), steps(folder)))
        finally:
            process.terminate()
            process.wait(60)
    left = ending.running("elastic")
    ray.shutdown()
    cluster.shutdown()
    return {"seen": seen, "left": left}


def main() -> None:
    """Write what was seen."""
    folder = Path(sys.argv[1])
    try:
        told = watch(folder)
    except BaseException:
        told = {"failed": traceback.format_exc()}
    (folder / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
