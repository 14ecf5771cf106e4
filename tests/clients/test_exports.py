"""Exports of ``raymoe report``, read by TensorBoard's own reader and by wandb's."""

import subprocess
from pathlib import Path

from tests import journals


def test_tensorboard_and_wandb_read_what_was_exported(programs: Path, tmp_path: Path) -> None:
    run = journals.written(tmp_path / "run", journals.eventful())
    done = subprocess.run(
        [programs / "python", "-W", "ignore", "-m", "tests.clients.exports", run, tmp_path],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
