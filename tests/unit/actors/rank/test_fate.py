"""A process that shares the fate of the one that started it."""

import os
import signal
import subprocess
import sys

import psutil

CHILD = (
    "import threading; from actors.rank.fate import share_fate; share_fate(); "
    "print(flush=True); threading.Event().wait()"
)
PARENT = (
    "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', sys.argv[1]], "
    "stdout=subprocess.PIPE); child.stdout.readline(); print(child.pid, flush=True); child.wait()"
)


def test_a_process_ends_soon_after_the_one_that_started_it_was_killed() -> None:
    command = [sys.executable, "-c", PARENT, CHILD]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        assert child.is_running()
        os.kill(parent.pid, signal.SIGKILL)
        child.wait(10)
