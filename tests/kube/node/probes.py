"""Whether a container is ready, as its readiness probe says."""

import socket
import time
import urllib.error
import urllib.request

from tests.kube.node.container import Container
from tests.kube.store import Table

PATIENCE = 5.0
"""Seconds of a probe count so many times: two cores carry a whole cluster here."""


class Readiness:
    """The readiness probe of a container; one without a probe is ready."""

    def __init__(self, box: Table, container: Container, address: str) -> None:
        self._probe: Table = box.get("readinessProbe") or {}
        self._container, self._address = container, address
        self._next = time.monotonic() + self._probe.get("initialDelaySeconds", 0)
        self._failures = 0
        self.ready = not self._probe

    def ask(self) -> None:
        """Probe, if it is time."""
        if not self._probe or time.monotonic() < self._next:
            return
        good = self._good(PATIENCE * self._probe.get("timeoutSeconds", 1))
        self._next = time.monotonic() + self._probe.get("periodSeconds", 10)
        self._failures = 0 if good else self._failures + 1
        if good:
            self.ready = True
        elif self._failures >= self._probe.get("failureThreshold", 3):
            self.ready = False

    def _good(self, seconds: float) -> bool:
        if "exec" in self._probe:
            return self._container.execute(self._probe["exec"]["command"], seconds)
        try:
            if "tcpSocket" in self._probe:
                port = self._probe["tcpSocket"]["port"]
                socket.create_connection((self._address, port), seconds).close()
                return True
            at = self._probe["httpGet"]
            url = f"http://{self._address}:{at['port']}{at['path']}"
            with urllib.request.urlopen(url, timeout=seconds) as answer:
                return bool(answer.status < 400)
        except (urllib.error.URLError, OSError):
            return False
