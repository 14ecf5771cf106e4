"""The faults of a run, each with a mark that says that it has happened.

Each fault happens once in a run, however often its rank is replaced and its step replayed. A
process that kills itself can tell nobody afterwards, and a driver cannot tell such an end from any
other. So the mark is a file beside the checkpoints, which every rank reaches: whoever carries out a
fault leaves the mark first. Every life of a rank is armed with all faults of the rank, also after
it died of something else, and the marks keep those that are spent from happening again.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from moe.config.fault import Fault
from moe.storage import Location, remove_tree, write_text


@dataclass(frozen=True, slots=True)
class Armed:
    """A fault and its mark, which is there once the fault has happened."""

    fault: Fault
    mark: Location

    @property
    def spent(self) -> bool:
        """Whether it has happened."""
        return self.mark.exists()

    def when(self) -> float | None:
        """Return when it happened, in seconds since 1970; None while the mark is being written."""
        text = self.mark.read_text("utf-8")
        return float(text.split()[0]) if text.endswith("\n") else None

    def take(self) -> bool:
        """Leave the mark and return True; False where it is there already.

        One process of a rank lives at a time, and one driver, so nobody else looks meanwhile.
        """
        if self.spent:
            return False
        write_text(self.mark, f"{time.time():.3f} {self.fault}\n")
        return True


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """All faults of a run in the order in which they were given, and the directory of their marks.

    The same fault may be given twice: then it happens twice, the second time in a replay.
    """

    faults: tuple[Fault, ...]
    marks: Location

    @property
    def armed(self) -> tuple[Armed, ...]:
        """Each fault with its mark."""
        return tuple(
            Armed(fault, self.marks / f"{number:04d}") for number, fault in enumerate(self.faults)
        )

    def of_rank(self, rank: int, step: int) -> tuple[Armed, ...]:
        """Return what a process is armed with that takes the seat of a rank after ``step`` steps.

        A fault at its start belongs to the first process that starts from the fault's step on.
        """
        return tuple(
            each
            for each in self.armed
            if each.fault.in_process
            and each.fault.rank == rank
            and (each.fault.phase != "start" or each.fault.step <= step)
        )

    def due(self, step: int) -> tuple[Armed, ...]:
        """Return the faults of nodes that are to happen before a step and have not yet."""
        spent = self.spent()
        return tuple(
            each
            for each in self.armed
            if not each.fault.in_process and each.fault.step <= step and each not in spent
        )

    def spent(self) -> tuple[Armed, ...]:
        """Return the faults that have happened, from one listing of the marks."""
        names = {mark.name for mark in self.marks.glob("*")} if self.faults else set[str]()
        return tuple(each for each in self.armed if each.mark.name in names)

    def open(self) -> None:
        """Make the directory of the marks, where the storage has directories."""
        if self.faults and isinstance(self.marks, Path):
            self.marks.mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        """Remove the marks."""
        if self.faults:
            remove_tree(self.marks)


NO_FAULTS = FaultPlan((), Path())
