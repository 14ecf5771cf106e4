"""The short form of the soak: a run on several Ray nodes to which everything happens once.

A rank is killed, one hangs, one raises, a node is gone, the driver is killed, a rank and the holder
of its copy are killed together. What is compared with a run that nobody disturbs, and what must not
be left, is in ``tests.soak.verdict``.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 400

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(SECONDS + 60)]

ROOT = Path(__file__).parents[2]


def test_whatever_is_lost_the_others_stay_and_the_curve_is_the_same(tmp_path: Path) -> None:
    apart = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak", "--short", "--check"],
        cwd=ROOT,
        env=apart | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout
