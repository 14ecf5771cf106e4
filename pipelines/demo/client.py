"""Serve a model in a process of its own and ask it one question through the OpenAI client."""

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from openai import OpenAI

from moe.errors import ClusterError

START_SECONDS = 300.0
STOP_SECONDS = 60.0


def ask(model: Path, question: str, report: Callable[[str], None]) -> str:
    """Return the answer of a served model."""
    with _server(model) as url, OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        name = client.models.list().data[0].id
        report(f"{name} answers at {url}/v1")
        reply = client.chat.completions.create(
            model=name,
            messages=[{"role": "user", "content": question}],
            max_tokens=60,
            temperature=0.0,
        )
        return reply.choices[0].message.content or ""


@contextmanager
def _server(model: Path) -> Iterator[str]:
    """Run ``raymoe serve`` until the block ends; it cleans up on its own."""
    port = _free_port()
    command = [sys.executable, "-m", "pipelines.cli", "serve", str(model), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        url = f"http://127.0.0.1:{port}"
        _await_health(process, url)
        yield url
    finally:
        process.terminate()
        try:
            process.communicate(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def _await_health(process: subprocess.Popen[str], url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            said = process.stdout.read() if process.stdout else ""
            raise ClusterError(f"the server ended before it was ready: {said[-2000:]}")
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise ClusterError(f"the server was not ready within {START_SECONDS:g} s")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
