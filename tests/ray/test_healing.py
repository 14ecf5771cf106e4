"""The short form of the soak: a run on several Ray nodes to which everything happens once.

A rank is killed, one hangs, one raises, a node is gone, the driver is killed, a rank and the holder
of its copy are killed together. What is compared with a run that nobody disturbs, and what must not
be left, is in ``tests.soak.verdict``.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

SECONDS = 400

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(SECONDS + 60)]

ROOT = Path(__file__).parents[2]


def test_whatever_is_lost_the_others_stay_and_the_curve_is_the_same() -> None:
    """Ray's sockets lie below the temporary directory, and their paths must be short."""
    apart = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    with tempfile.TemporaryDirectory(prefix="soak") as folder:
        done = subprocess.run(
            [sys.executable, "-m", "tests.soak", "--short", "--check"],
            cwd=ROOT,
            env=apart | {"PYTHONPATH": str(ROOT), "TMPDIR": folder},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
