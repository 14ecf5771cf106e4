"""An S3-compatible server on the loopback: moto's, in a process of its own.

moto asks for another python-dateutil than the Kubernetes client, so it lives in an environment of
its own, which ``make s3`` makes.
"""

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

SERVER = Path(os.environ.get("RAYMOE_MOTO_SERVER", ".venv-s3/bin/moto_server"))
CREDENTIALS: Mapping[str, str] = {
    "AWS_ACCESS_KEY_ID": "anyone",
    "AWS_SECRET_ACCESS_KEY": "anything",
    "AWS_EC2_METADATA_DISABLED": "true",
}
PATIENCE_SECONDS = 30.0


@contextmanager
def running() -> Iterator[str]:
    """Start a server with one bucket, with the credentials it takes in the environment.

    Yield the URI of a prefix in it, with ``{}`` for its name.
    """
    if not SERVER.exists():
        pytest.skip(f"no {SERVER}; make it with `make s3`")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [SERVER, "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait(server, port)
        query = f"scheme=http&endpoint_override=127.0.0.1:{port}&region=us-east-1"
        with pytest.MonkeyPatch.context() as patch:
            for name, value in CREDENTIALS.items():
                patch.setenv(name, value)
            _make_bucket(query)
            yield "s3://bucket/runs/{}?" + query
    finally:
        server.terminate()
        server.wait(PATIENCE_SECONDS)


def _wait(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        assert server.poll() is None, "the server did not start"
        assert time.monotonic() < deadline, "the server did not start in time"
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return


def _make_bucket(query: str) -> None:
    from pyarrow.fs import FileSystem

    files, _ = FileSystem.from_uri(f"s3://bucket?{query}&allow_bucket_creation=true")
    files.create_dir("bucket")
