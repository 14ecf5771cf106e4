"""The ranks of a plan under ``torchrun``, for a bench to step beside actors."""

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from torch._C._distributed_c10d import TCPStore

from actors.commands import BuildCommand
from actors.state.sources import ModelSource
from moe.config.run import RunConfig
from moe.planning.plan.plan import Plan


class Stepped(NamedTuple):
    """What ranks say of a step: the seconds of the slowest, and the loss."""

    seconds: float
    loss: float


class Torchrun:
    """Ranks that wait for the bench to ask for a step."""

    def __init__(self, store: TCPStore, ranks: int) -> None:
        self._store = store
        self._ranks = ranks

    def step(self, step: int) -> Stepped:
        """Let all ranks do a step."""
        self._store.set(f"go-{step}", "1")
        answers = [
            self._store.get(f"done-{step}-{rank}").decode().split() for rank in range(self._ranks)
        ]
        return Stepped(
            max(float(seconds) for seconds, _ in answers), max(float(loss) for _, loss in answers)
        )


@contextmanager
def torchrun(run: RunConfig, plan: Plan, sequence_length: int) -> Iterator[Torchrun]:
    """Start the ranks of a plan as torchrun does and end them with the block."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=_PATIENCE)
    ranks = len(plan.seats)
    command = BuildCommand(plan, plan.seats.seat(0), sequence_length, run)
    source = ModelSource(run.model.path.absolute())
    with TemporaryDirectory() as folder:
        file = Path(folder) / "command"
        file.write_bytes(pickle.dumps((command, source)))
        words = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        words += ["-m", "benchmarks.torchrun_rank", str(file), str(store.port)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with subprocess.Popen([sys.executable, *words], env=environment) as process:
            try:
                yield Torchrun(store, ranks)
            finally:
                process.terminate()


_PATIENCE = timedelta(hours=1)
