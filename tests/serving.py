"""A served model for tests of the API: real HTTP, a decoder in this process, no Ray."""

import http.client
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from openai import OpenAI

from moe.checkpoint.reader import Checkpoint
from moe.config.share import whole
from pipelines.serving.access import Access
from pipelines.serving.adapters import AdapterMemory, Adapters
from pipelines.serving.generation.scheduler import Scheduler
from pipelines.serving.http.api import create_app
from pipelines.serving.limits import Limits
from pipelines.serving.service import Service
from pipelines.serving.telemetry import Telemetry
from pipelines.serving.text.text import Text
from tests import servers
from tests.local_decoder import LocalDecoder, room

PATIENCE = 20.0
ADAPTER_BYTES = 100_000
"""Memory for adapters, of which one of rank 4 takes up to half."""


class Server:
    """A served model, and the engines it was given."""

    def __init__(self, model: Path, limits: Limits, running: int) -> None:
        limits = replace(limits, running=running)
        self.model = model
        self.engines: list[LocalDecoder] = []
        self.scheduler = Scheduler(self._build, room(running=running), limits)
        config = Checkpoint.open(model).config
        self.text = Text.open(model)
        self.telemetry = Telemetry("tiny")
        self.service = Service("tiny", config, self.text, self.scheduler, limits, self.telemetry)
        memory = AdapterMemory(config, [whole(config)], 4, ADAPTER_BYTES)
        self.adapters = Adapters("tiny", memory, self.scheduler, self.telemetry)
        self.service.adapters = self.adapters
        self.client: OpenAI
        self.url: str

    def _build(self) -> LocalDecoder:
        self.engines.append(LocalDecoder(self.model))
        return self.engines[-1]

    @property
    def engine(self) -> LocalDecoder:
        return self.engines[-1]

    def rest(self) -> None:
        """Wait until nothing runs, waits or holds a cache."""
        until(lambda: not (self.scheduler.status.running or self.scheduler.status.waiting))
        assert self.scheduler.status.cache_used == 0


@contextmanager
def served(
    model: Path, limits: Limits, access: Access | None = None, running: int = 1
) -> Iterator[Server]:
    server = Server(model, limits, running)
    with servers.running(create_app(server.service, access)) as url:
        server.url = url
        base = f"{url}/v1"
        with OpenAI(base_url=base, api_key="-", max_retries=0, timeout=PATIENCE) as client:
            server.client = client
            yield server
    assert not server.engine.alive


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Listening(Protocol):
    """A server of requests."""

    url: str


def sent(
    server: Listening,
    path: str,
    method: str = "GET",
    body: Any = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers (names in lower case) and body of a reply to a plain request."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=PATIENCE)
    try:
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        named = {name.lower(): value for name, value in response.getheaders()}
        return response.status, named, response.read()
    finally:
        connection.close()


def get(server: Listening, path: str, method: str = "GET", body: str | None = None) -> Any:
    """Return status and JSON of a reply to a JSON request."""
    status, _, reply = sent(server, path, method, body, {"Content-Type": "application/json"})
    return status, json.loads(reply)
