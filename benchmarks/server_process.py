"""A server of the OpenAI API in a process of its own: started, awaited, and ended whole."""

import asyncio
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import aiohttp
import psutil

from moe.errors import ClusterError

HEALTH_SECONDS = 0.5
FORGOTTEN = ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR", "OMP_NUM_THREADS")
"""Variables of this process that no server is to follow."""


@dataclass(frozen=True, slots=True)
class Start:
    """How a server is started: ``command`` takes a port, ``model`` is what requests name."""

    engine: str
    weights: str
    command: Callable[[int], Sequence[str]]
    model: str
    environment: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 300.0

    @property
    def name(self) -> str:
        """The engine and its weights, as a row of the table has them."""
        return f"{self.engine} {self.weights}"


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers at ``url``, which ends with ``/v1``; ``pid`` is its first process."""

    url: str
    pid: int

    def processor_seconds(self) -> float:
        """Return the time on processors of the server and all that it has started."""
        first = psutil.Process(self.pid)
        total = 0.0
        for process in (first, *first.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                spent = process.cpu_times()
                total += spent.user + spent.system
        return total


def free_port() -> int:
    """Return a port of this machine on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def started(start: Start) -> Iterator[Running]:
    """Start a server and wait until it is healthy; end it and all it started."""
    port = free_port()
    environment = {key: value for key, value in os.environ.items() if key not in FORGOTTEN}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            start.command(port),
            env=environment | dict(start.environment),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _await_health(process, f"{url}/health", start)
            yield Running(f"{url}/v1", process.pid)
        except _NotReady as error:
            said.seek(0)
            last = said.read().decode(errors="replace")[-1500:]
            raise ClusterError(f"{start.name} {error}; it said: {last}") from None
        finally:
            _end(process)


class _NotReady(Exception):
    pass


def _await_health(process: "subprocess.Popen[bytes]", url: str, start: Start) -> None:
    deadline = time.monotonic() + start.seconds
    while not asyncio.run(_healthy(url)):
        if process.poll() is not None:
            raise _NotReady(f"ended with {process.returncode} before it was ready")
        if time.monotonic() > deadline:
            raise _NotReady(f"was not ready within {start.seconds:g} s")
        time.sleep(HEALTH_SECONDS)


async def _healthy(url: str) -> bool:
    timeout = aiohttp.ClientTimeout(total=5)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False


def _end(process: "subprocess.Popen[bytes]", seconds: float = 60.0) -> None:
    """Ask it to end; then end what is left of its process group."""
    if process.poll() is None:
        process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
