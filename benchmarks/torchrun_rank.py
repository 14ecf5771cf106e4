"""One rank of a plan as ``torchrun`` starts it: the actors' own code without Ray around it.

It does a step whenever the bench asks for one, and tells how long that took.
"""

import os
import pickle
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from torch._C._distributed_c10d import TCPStore

from actors.commands import BuildCommand
from actors.epochs.membership import Membership
from actors.rank.rank import Rank
from actors.state.sources import ModelSource
from actors.step.replicas import part_of
from pipelines.corpus.shards import TokenShards
from pipelines.training.batches import batches

PATIENCE = timedelta(hours=2)
SECONDS = 600.0


def take_part() -> None:
    """Build, join, and take part in steps until the bench is done."""
    number = int(os.environ["RANK"])
    command: BuildCommand
    source: ModelSource
    command, source = pickle.loads(Path(sys.argv[1]).read_bytes())
    seats = command.plan.seats
    command = replace(command, seat=seats.seat(number))
    bench = TCPStore("127.0.0.1", int(sys.argv[2]), is_master=False, timeout=PATIENCE)
    plan, run = command.plan, command.run
    assert run is not None
    rank = Rank(number)
    rank.build(command, source)
    if number == 0:
        _, port = rank.open_store(SECONDS)
        bench.set("meeting", str(port))
    port = int(bench.get("meeting"))
    homes = plan.homes
    rank.join(Membership("bench", 1, command.seat, seats, homes, "127.0.0.1", port, SECONDS))
    for batch in batches(run, TokenShards.open(run.data.path, "train"), 0):
        bench.get(f"go-{batch.step}")
        part = part_of(batch, run.train, command.seat.replica, plan.replicas)
        started = time.perf_counter()
        report = rank.train_step(part)
        seconds = time.perf_counter() - started
        bench.set(f"done-{batch.step}-{number}", f"{seconds} {report.loss or 0.0}")


if __name__ == "__main__":
    take_part()
