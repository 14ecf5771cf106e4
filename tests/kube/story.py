"""What stories of raymoe on Kubernetes have in common: a cluster, its volume, and the commands that
a person types.

A story runs in a machine of its own, whose folder has ``data`` (the volume), and leaves there what
it saw as ``told.json``.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomli_w

from cluster.kube.kinds import POD
from cluster.kuberay.scheduling import ROLE_LABEL
from tests.kube import cluster
from tests.kube.kubeconfig import written
from tests.kube.node.network import GATEWAY
from tests.kube.node.spec import Node
from tests.kube.store import Table

ROOT = Path(__file__).parents[2]
SECONDS = 900.0
"""Longest that a story takes, on a busy machine of two cores."""
VOLUME = "/srv/data"
"""Where pods see the folder ``data``."""
CLAIM, NAMESPACE = "raymoe-data", "raymoe"

DEPLOYMENT: Mapping[str, Any] = {
    "namespace": NAMESPACE,
    "image": {"name": "registry.example/raymoe:here"},
    "storage": {"claim": CLAIM, "mount": VOLUME},
    "head": {"cpus": 1, "memory_gib": 2},
    "driver": {"memory_gib": 2},
    "pods": {"grace_seconds": 10},
}

Told = dict[str, Any]


class Story:
    """A cluster while a story is told. ``late`` is how many seconds rank pods wait for a node."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "data"
        self.late = 0.0
        self.cluster: cluster.Cluster
        self._deadline = time.monotonic() + SECONDS
        self._config = folder

    @contextmanager
    def begun(self) -> Iterator["Story"]:
        """Run the cluster while the block runs."""
        pods = self.folder / "pods"
        pods.mkdir()
        Path("/tmp/ray").mkdir(exist_ok=True)
        node = Node(pods, _image(), {CLAIM: self.data}, pods / "account")
        with cluster.running(pods, node, self._waits) as self.cluster:
            self._config = written(self.cluster.api, self.folder, self.cluster.certificate)
            yield self

    def deployment(self, **sections: Mapping[str, Any]) -> Path:
        """Write the deployment file, with more keys in some of its sections."""
        table = {
            key: dict(value) if isinstance(value, dict) else value
            for key, value in DEPLOYMENT.items()
        }
        for name, keys in sections.items():
            table[name] = table.get(name, {}) | keys
        file = self.folder / "deployment.toml"
        file.write_text(tomli_w.dumps(table))
        return file

    def raymoe(self, *words: object) -> str:
        """Type a command of raymoe; return what it prints."""
        done = subprocess.run(
            [sys.executable, "-m", "pipelines.cli", *map(str, words)],
            env=os.environ | {"KUBECONFIG": str(self._config)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"raymoe {' '.join(map(str, words))}: {done.stderr}")
        return done.stdout

    def pods(self, role: str) -> list[Table]:
        """Return the pods of a role that are not about to go, by name."""
        every = self.cluster.objects.every(POD, f"{ROLE_LABEL}={role}")
        return [each for each in every if "deletionTimestamp" not in each["metadata"]]

    def until(self, there: Callable[[], object]) -> None:
        """Wait for something; TimeoutError says what the cluster looks like."""
        while not there():
            if time.monotonic() > self._deadline:
                raise TimeoutError(f"not within {SECONDS:g} s:\n{self._sight()}")
            time.sleep(0.2)

    def left(self) -> list[str]:
        """Return the objects that are still there."""
        return sorted(f"{key[1]}/{key[3]}" for key in self.cluster.store.objects)

    def _waits(self, pod: Table) -> float:
        return self.late if pod["metadata"]["labels"].get(ROLE_LABEL) == "rank" else 0.0

    def _sight(self) -> str:
        lines = []
        for key, table in self.cluster.store.objects.items():
            lines.append(f"{key[1]}/{key[3]}: {json.dumps(table.get('status', {}))}")
        for name, log in self.cluster.store.logs.items():
            text = log.read_text(errors="replace") if isinstance(log, Path) else log
            lines.append(f"--- {name}\n{text[-1500:]}")
        return "\n".join(lines)


def tell(play: Callable[[Story], Told]) -> None:
    """Play a story in the folder that the command line names, and write what was seen."""
    story = Story(Path(sys.argv[1]))
    with story.begun():
        told = play(story)
    (story.folder / "told.json").write_text(json.dumps(told))


def _image() -> Mapping[str, str]:
    """Return what the image of raymoe sets, which this machine stands for, and the patience of a
    busy machine with the start of a node.
    """
    own = str(Path(sys.executable).parent)
    return {
        "PATH": f"{own}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": os.environ.get("HOME", "/root"),
        "LANG": "C.UTF-8",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "180",
        "KUBERNETES_SERVICE_HOST": GATEWAY,
        "KUBERNETES_SERVICE_PORT_HTTPS": str(cluster.PORT),
    }
