"""A kubelet for all pods of the API server in memory: it runs them, and says how they are.

It schedules every pod on one node at once, unless the pod is among those that come late. It runs
init containers, then the others, probes readiness, and ends a pod that is deleted with SIGTERM, its
grace, and SIGKILL. It knows no limits, no liveness probes, and no restarts of containers: a pod
whose container ends is over, as with the restart policy Never that the autoscaler asks for.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from signal import SIGKILL, SIGTERM

from urllib3.exceptions import HTTPError

from cluster.kube.api import Refusal
from cluster.kube.kinds import POD
from tests.kube.node.container import Container, Sandbox
from tests.kube.node.network import Network
from tests.kube.node.probes import Readiness
from tests.kube.node.spec import Node, Spec
from tests.kube.objects import SERVICE, Objects
from tests.kube.store import Store, Table, now

TICK_SECONDS = 0.5

Late = Callable[[Table], float]
"""Seconds that a pod waits for a node."""


class Kubelet:
    """The pods that run, by name."""

    def __init__(
        self, objects: Objects, store: Store, node: Node, network: Network, late: Late
    ) -> None:
        self._objects, self._store, self._node = objects, store, node
        self._network, self._late = network, late
        self._pods: dict[str, RunningPod] = {}
        self._seen: dict[str, float] = {}
        self._names = ""

    def tick(self) -> None:
        """Start the pods that are new, and end those that are deleted."""
        there = {each["metadata"]["name"]: each for each in self._objects.every(POD)}
        for name, pod in there.items():
            going = pod["metadata"].get("deletionTimestamp")
            running = self._pods.get(name)
            if going and running is not None and not running.ended:
                running.end()
            elif going:
                self._objects.delete(POD, name, at_once=True)
            elif running is None and self._scheduled(pod):
                self._start(pod)
        for name in self._pods.keys() - there.keys():
            self._pods.pop(name).kill()
        self._tell_names(list(there.values()))

    def crash(self, name: str) -> None:
        """Kill all processes of a pod, as the kernel does when memory is out."""
        self._pods[name].kill()

    def close(self) -> None:
        for pod in self._pods.values():
            pod.kill()

    def _scheduled(self, pod: Table) -> bool:
        name = pod["metadata"]["name"]
        begun = self._seen.setdefault(name, time.monotonic())
        if time.monotonic() - begun >= self._late(pod):
            return True
        message = "0/1 nodes are available: 1 Insufficient cpu."
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
        told = {"phase": "Pending", "conditions": [condition | {"message": message}]}
        self._objects.status(POD, name, told)
        return False

    def _start(self, pod: Table) -> None:
        name = pod["metadata"]["name"]
        folder = self._node.folder / name
        folder.mkdir()
        (folder / "hosts").write_text(self._names)
        (folder / "resolv.conf").touch()
        spec = Spec(pod, self._node, self._objects, folder)
        self._pods[name] = RunningPod(spec, self._network, self._store)

    def _tell_names(self, pods: list[Table]) -> None:
        """Write the names of services into the pods, in place of a DNS."""
        addresses = {each["metadata"]["name"]: each.get("status", {}).get("podIP") for each in pods}
        lines = ["127.0.0.1 localhost"]
        lines += [f"{address} {name}" for name, address in addresses.items() if address]
        for service in self._objects.every(SERVICE):
            name, space = service["metadata"]["name"], self._objects.namespace
            chosen = service["spec"]["selector"].items()
            for pod in pods:
                address = addresses[pod["metadata"]["name"]]
                if address and chosen <= pod["metadata"]["labels"].items():
                    lines.append(f"{address} {name}.{space}.svc.cluster.local {name}")
        self._names = "\n".join([*lines, ""])
        for running in self._pods.values():
            file = running.spec.folder / "hosts"
            if file.read_text() != self._names:
                file.write_text(self._names)


class RunningPod:
    """A pod and the thread that lives its life."""

    def __init__(self, spec: Spec, network: Network, store: Store) -> None:
        self.spec, self._network, self._store = spec, network, store
        self._sandbox: Sandbox | None = None
        self._running: dict[str, Container] = {}
        self._ending, self._killed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return not self._thread.is_alive()

    @property
    def _name(self) -> str:
        return str(self.spec.pod["metadata"]["name"])

    def end(self) -> None:
        """Have it end with its grace."""
        self._ending.set()

    def kill(self) -> None:
        """Have it end now."""
        self._killed.set()
        for container in list(self._running.values()):
            container.stop(SIGKILL)

    def _live(self) -> None:
        self._sandbox = Sandbox(self._name)
        address = self._network.join(self._sandbox.pid)
        boxes = self.spec.pod["spec"]["containers"]
        begun = {"podIP": address, "hostIP": address, "startTime": now()}
        self._tell({"phase": "Pending", **begun, "conditions": _conditions(False)})
        try:
            if self._initialised() and not self._over():
                probes = [Readiness(box, self._begin(box), address) for box in boxes]
                self._watch(probes)
            self._stop()
        except (LookupError, OSError) as error:
            reason = {"waiting": {"reason": "CreateContainerConfigError", "message": str(error)}}
            boxes = [{"name": box["name"], "state": reason} for box in boxes]
            self._tell({"phase": "Pending", "containerStatuses": boxes})
        finally:
            self._sandbox.close()

    def _initialised(self) -> bool:
        """Run the init containers one after the other; return whether all ended well."""
        for box in self.spec.pod["spec"].get("initContainers", ()):
            container = self._begin(box)
            while container.code is None and not self._over():
                time.sleep(TICK_SECONDS)
            if container.code != 0:
                return False
        return True

    def _watch(self, probes: list[Readiness]) -> None:
        """Tell how the containers are until one has ended, or the pod is to end."""
        told: Table = {}
        while not self._over() and all(each.code is None for each in self._boxes().values()):
            for probe in probes:
                probe.ask()
            state = self._state("Running", all(probe.ready for probe in probes))
            if state != told:
                self._tell(state)
                told = state
            time.sleep(TICK_SECONDS)

    def _stop(self) -> None:
        """End what runs: with its grace, unless the pod was killed or has ended by itself."""
        left = [each for each in self._running.values() if each.code is None]
        for container in left:
            container.stop(SIGTERM)
        grace = self.spec.pod["spec"].get("terminationGracePeriodSeconds", 30)
        end = time.monotonic() + grace
        for container in left:
            if self._killed.is_set() or not container.wait(max(0.0, end - time.monotonic())):
                container.stop(SIGKILL)
                container.wait(30)
        well = bool(self._boxes()) and all(each.code == 0 for each in self._boxes().values())
        self._tell(self._state("Succeeded" if well else "Failed", False))

    def _begin(self, box: Table) -> Container:
        spec, name = self.spec, box["name"]
        assert self._sandbox is not None
        container = Container(
            self._sandbox,
            spec.words(box),
            spec.variables(box),
            spec.mounts(box),
            spec.folder / name,
        )
        self._running[name] = container
        self._store.logs[self._name] = next(iter(self._boxes().values()), container).log
        return container

    def _boxes(self) -> dict[str, Container]:
        """Return the containers that are not for the start."""
        names = [box["name"] for box in self.spec.pod["spec"]["containers"]]
        return {name: self._running[name] for name in names if name in self._running}

    def _over(self) -> bool:
        return self._ending.is_set() or self._killed.is_set()

    def _state(self, phase: str, ready: bool) -> Table:
        boxes = []
        for name, container in self._boxes().items():
            code = container.code
            state: Table = {"running": {}}
            if code is not None:
                reason = "Completed" if code == 0 else "Error"
                state = {"terminated": {"exitCode": code, "reason": reason}}
            up = code is None and ready
            boxes.append({"name": name, "image": "here", "ready": up, "state": state})
        return {"phase": phase, "conditions": _conditions(ready), "containerStatuses": boxes}

    def _tell(self, status: Table) -> None:
        with contextlib.suppress(Refusal, HTTPError):  # the pod is gone, or it is told again
            self.spec.objects.status(POD, self._name, status)


def _conditions(ready: bool) -> list[Table]:
    words = {"status": str(ready)} | ({} if ready else {"reason": "ContainersNotReady"})
    return [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", **words}]
