"""Starts ranks of a real DeepSpeed in processes of their own, and waits for their end."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

SECONDS = 540.0


def launch(folder: Path, words: Sequence[str]) -> None:
    """Run a script of ranks, or a module, with a free port as its last word; its log is in the
    folder.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    with (
        (folder / "deepspeed.log").open("w") as log,
        subprocess.Popen(
            [sys.executable, *words, str(port)],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        try:
            code = process.wait(timeout=SECONDS)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert code == 0, (folder / "deepspeed.log").read_text()[-2000:]
