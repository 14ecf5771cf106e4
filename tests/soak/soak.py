"""The two runs of a soak, one after the other on the same nodes: undisturbed, then hurt."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w
from ray._private.state import actors as actor_table

from cluster.journal import JOURNAL
from moe.config.fault import Fault
from moe.errors import RaymoeError
from moe.planning.policy.holders import holders
from pipelines.training.board import ask
from pipelines.training.wishes import Wish
from tests import material
from tests.remains import remains, shared_memory
from tests.soak import processes
from tests.soak.course import Course
from tests.soak.harms import Harms
from tests.soak.nodes import Nodes
from tests.soak.processes import Sample
from tests.soak.seats import sitting

STAGES, REPLICAS = 2, 2
RANKS = STAGES * REPLICAS
CHECKPOINT_EVERY = 10
LEARNING_RATE = 3e-4
"""A plan that adds in another order moves a loss by 1e-7. With 3e-3, training makes 1e-2 of that in
200 steps, and no bound on the curve would tell a wrong run from a right one.
"""
HANG_SECONDS = 4.0
POLL_SECONDS, SAMPLE_SECONDS = 0.05, 2.0
STUCK_SECONDS = 180.0
"""Without a step for so long a run does not go on."""


@dataclass
class Hurt:
    """One run: its journal as it was seen, what was left, what its processes had."""

    folder: Path
    course: Course
    code: int = -1
    said: str = ""
    samples: list[Sample] = field(default_factory=list)
    nodes: tuple[str, ...] = ()
    pids: list[tuple[int, ...]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def undisturbed_and_hurt(folder: Path, steps: int, harms: Harms, batch: int) -> tuple[Hurt, Hurt]:
    """Run both, each to its last step, and look what is left after each."""
    made = material.make(folder)
    nodes = Nodes()
    try:
        both = []
        for name, own in (("undisturbed", Harms((), ())), ("hurt", harms)):
            table = _table(made, folder / name, steps, batch) | {"name": name}
            table["cluster"]["address"] = nodes.address
            both.append(_Soak(table, folder / name, own, nodes).run())
    finally:
        nodes.close()
    both[1].left += [f"after all ended: {processes.title(each)}" for each in processes.marked()]
    return both[0], both[1]


def _table(made: Path, to: Path, steps: int, batch: int) -> dict[str, Any]:
    table = material.run_table(made, to, steps)
    table["train"] |= {"global_batch": batch, "learning_rate": LEARNING_RATE}
    table["plan"] |= {"stages": STAGES, "replicas": REPLICAS}
    table["checkpoint"] |= {"every": CHECKPOINT_EVERY, "keep": 2}
    table["cluster"] |= {"max_failures": 999}
    table["elastic"] = {
        "copy_every": 1,
        "hang_seconds": HANG_SECONDS,
        "max_failures": 9999,
        "faults": True,
    }
    return table


class _Soak:
    """One run of the command line, and what is done to it from outside."""

    def __init__(self, table: dict[str, Any], folder: Path, harms: Harms, nodes: Nodes) -> None:
        folder.mkdir()
        self._name = str(table["name"])
        self._file = folder.with_suffix(".toml")
        self._file.write_text(tomli_w.dumps(table))
        self._harms = harms
        self._nodes = nodes
        self._blows = [*harms.blows]
        self._course = Course(folder / JOURNAL)
        self._hurt = Hurt(folder, self._course)
        self._resizing: threading.Thread | None = None

    def run(self) -> Hurt:
        before = shared_memory()
        with tempfile.TemporaryDirectory(dir=self._file.parent) as scratch:
            said = self._file.with_suffix(".out")
            with said.open("w") as out:
                self._follow(out, scratch)
            self._hurt.said = said.read_text()
            self._hurt.left = [f"temporary file {each}" for each in os.listdir(scratch)]
        self._hurt.left += remains(self._name, self._hurt.folder, before, _processes)
        return self._hurt

    def _follow(self, out: Any, scratch: str) -> None:
        words = [sys.executable, "-m", "pipelines.cli", "train", str(self._file)]
        words += [word for fault in self._harms.faults for word in ("--fault", str(fault))]
        environment = os.environ | {"TMPDIR": scratch}
        with subprocess.Popen(words, stdout=out, stderr=out, env=environment) as process:
            try:
                self._watch(process)
            finally:
                if process.poll() is None:
                    process.terminate()
                    process.wait(60)
        self._hurt.code = process.returncode
        if self._resizing is not None:
            self._resizing.join()

    def _watch(self, process: "subprocess.Popen[bytes]") -> None:
        sampled, moved = 0.0, time.monotonic()
        while process.poll() is None:
            done = self._course.done
            self._course.look()
            if self._course.done != done:
                moved = time.monotonic()
                self._strike()
            if time.monotonic() > moved + STUCK_SECONDS:
                return
            if time.monotonic() > sampled + SAMPLE_SECONDS:
                sampled = time.monotonic()
                self._hurt.samples += processes.samples()
                self._look_at_seats()
                self._nodes.keep()
            time.sleep(POLL_SECONDS)
        self._course.look()

    def _look_at_seats(self) -> None:
        """Note who sits where, if every rank answers."""
        seats = sitting(self._name)
        if len(seats) == RANKS:
            self._hurt.pids.append(tuple(seat.pid for seat in seats.values()))
            self._hurt.nodes = self._hurt.nodes or tuple(seat.node for seat in seats.values())

    def _strike(self) -> None:
        """Carry out the blow that is due, if the run can be struck now."""
        if not self._blows or self._course.done < self._blows[0].step:
            return
        if self._blows[0].kind == "resize":
            self._begun()
            self._resizing = threading.Thread(target=self._resize)
            self._resizing.start()
        elif pids := _driver() if self._blows[0].kind == "driver" else self._pair():
            self._begun()
            for pid in pids:
                os.kill(pid, signal.SIGKILL)

    def _begun(self) -> None:
        """Note that the next blow falls now."""
        self._course.blows.append((time.time(), self._blows.pop(0).kind))

    def _resize(self) -> None:
        """Ask for one replica, again where the first try was spoilt, and for all replicas.

        What becomes of it is in the journal.
        """
        for replicas in (1, 1, REPLICAS):
            with suppress(RaymoeError):
                ask(self._name, Wish(replicas=replicas), STUCK_SECONDS)

    def _pair(self) -> list[int]:
        """Return the processes of a rank and of the holder of its copy; none while ranks lack."""
        seats = sitting(self._name)
        held = holders({seat: found.node for seat, found in seats.items()})
        if held is None or len(seats) < RANKS:
            return []
        victim = [*seats][self._course.done % RANKS]
        return [seats[seat].pid for seat in (victim, held[victim])]


def _driver() -> list[int]:
    """Return the process of the driver of the run; none while there is none."""
    return [
        int(row["Pid"])
        for row in actor_table().values()
        if row["State"] == "ALIVE" and "RayTrainWorker" in row["ActorClassName"]
    ]


def _processes() -> Iterator[str]:
    """Yield the processes that should be gone when a run has ended."""
    yield from (f"process {text}" for text in processes.at_work())
    yield from (f"orphan {text}" for text in processes.orphans())


def faults_that_did_not_happen(hurt: Hurt, faults: Sequence[Fault]) -> list[str]:
    """Return the faults of a run of which its journal knows nothing."""
    happened = [each["fault"] for each in hurt.course.events("fault")]
    lacking = []
    for text in map(str, faults):
        if text in happened:
            happened.remove(text)
        else:
            lacking.append(text)
    return lacking
