"""Containers without images: processes with mounts and process numbers of their own, in the
network of their pod.

The image is this machine's file system. Memory and CPUs are not bounded, and the user is the one
that the machine has.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from tests.kube.node.mounts import Mount, script


class Sandbox:
    """The network namespace of a pod, held by a process that sleeps, as pause does."""

    def __init__(self, name: str) -> None:
        pause = f"echo {name} > /proc/sys/kernel/hostname; exec sleep infinity"
        self._process = subprocess.Popen(["unshare", "--net", "--uts", "sh", "-c", pause])
        self.pid = self._process.pid
        while _namespace(self.pid) == _namespace(os.getpid()):
            assert self._process.poll() is None, "no network namespace"
            time.sleep(0.01)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def inside(self) -> list[str]:
        """Return the words that run a command in the network of the pod."""
        own = f"/proc/{self.pid}/ns"
        return ["nsenter", f"--net={own}/net", f"--uts={own}/uts"]


class Container:
    """One container that runs; its output goes to ``log``."""

    def __init__(
        self,
        sandbox: Sandbox,
        words: Sequence[str],
        environment: Mapping[str, str],
        mounts: Sequence[Mount],
        folder: Path,
    ) -> None:
        scratch = folder / "scratch"
        scratch.mkdir(parents=True)
        start = folder / "mounts.sh"
        start.write_text(script(mounts, scratch))
        self.log = folder / "log"
        self._environment = dict(environment)
        apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        with self.log.open("wb") as lines:
            self._process = subprocess.Popen(
                [*sandbox.inside(), *apart, "bash", str(start), *words],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=lines,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # for Linux a share of the cores of its own, as a pod has
            )

    @property
    def code(self) -> int | None:
        """How it ended, as Kubernetes counts: 128 and the signal; None while it runs."""
        code = self._process.poll()
        return code if code is None or code >= 0 else 128 - code

    def stop(self, number: signal.Signals) -> None:
        """Send a signal to the first process; what has no handler for it does not hear it."""
        if (first := self._first()) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(first, number)

    def wait(self, seconds: float) -> bool:
        """Return whether it has ended within so many seconds."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def execute(self, words: Sequence[str], seconds: float) -> bool:
        """Run a command in the container; return whether it ended well in time."""
        if (first := self._first()) is None:
            return False
        enter = ["nsenter", "-t", str(first), "--mount", "--pid", "--net", "--uts"]
        try:
            done = subprocess.run(
                [*enter, *words],
                env=self._environment,
                timeout=seconds,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def _first(self) -> int | None:
        """Return the process that is number 1 in the container."""
        try:
            return next((each.pid for each in psutil.Process(self._process.pid).children()), None)
        except psutil.NoSuchProcess:
            return None


def _namespace(pid: int) -> str:
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/ns/net")
    return ""
