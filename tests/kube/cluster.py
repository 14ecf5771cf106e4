"""A whole cluster in one process: the API server, the controllers, and the kubelet of one node.

It runs in a machine of its own (``tests.kube.machine``). The pods are real processes with
addresses, mounts and process numbers of their own; KubeRay's part is played as its 1.7 does.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from urllib3.exceptions import HTTPError

from cluster.kube.api import Api, Refusal
from cluster.kube.kinds import RAYCLUSTER, RAYJOB, RAYSERVICE
from tests.kube.batch import reconcile_batch
from tests.kube.kuberay.clusters import reconcile_cluster
from tests.kube.kuberay.jobs import reconcile_job
from tests.kube.kuberay.services import Services
from tests.kube.machine import certificate
from tests.kube.node.kubelet import TICK_SECONDS, Kubelet, Late
from tests.kube.node.network import GATEWAY, Network
from tests.kube.node.spec import Node
from tests.kube.objects import JOB, Objects
from tests.kube.server import Place, Store, serving

PORT = 6443
CONTROLLER_SECONDS = 1.0
"""From one look of a controller at its objects to the next; KubeRay looks every two or three."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cluster:
    """What a story uses of a cluster."""

    store: Store
    api: Api
    objects: Objects
    kubelet: Kubelet
    certificate: Path


@contextmanager
def running(folder: Path, node: Node, late: Late) -> Iterator[Cluster]:
    """Run a cluster while the block runs; its pods end with it."""
    store = Store(kubelets=True)
    crt, key = certificate(folder)
    node.account.mkdir()
    texts = {"token": "t", "namespace": "raymoe", "ca.crt": crt.read_text()}
    for name, text in texts.items():
        (node.account / name).write_text(text)
    network = Network()
    with serving(store, Place(GATEWAY, PORT, crt, key)) as api:
        objects = Objects(api.client, "raymoe")
        kubelet = Kubelet(objects, store, node, network, late)
        over = threading.Event()
        threads = [
            threading.Thread(target=_repeat, args=(*each, over), daemon=True)
            for each in (
                (kubelet.tick, TICK_SECONDS),
                (_Controllers(objects).tick, CONTROLLER_SECONDS),
            )
        ]
        for thread in threads:
            thread.start()
        try:
            yield Cluster(store, api, objects, kubelet, crt)
        finally:
            over.set()
            for thread in threads:
                thread.join(30)
            kubelet.close()


class _Controllers:
    """KubeRay and the controller of Jobs, one look after the other at every object."""

    def __init__(self, objects: Objects) -> None:
        self._objects, self._services = objects, Services(objects)

    def tick(self) -> None:
        for job in self._objects.every(RAYJOB):
            reconcile_job(self._objects, job)
        for service in self._objects.every(RAYSERVICE):
            self._services.reconcile(service)
        for cluster in self._objects.every(RAYCLUSTER):
            reconcile_cluster(self._objects, cluster)
        for batch in self._objects.every(JOB):
            reconcile_batch(self._objects, batch)


def _repeat(tick: Callable[[], None], seconds: float, over: threading.Event) -> None:
    while not over.wait(seconds):
        try:
            tick()
        except (Refusal, HTTPError) as error:  # what went meanwhile the next look finds out
            _LOG.warning("%s", error)
