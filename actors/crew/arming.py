"""Arms the processes of a crew with the faults of their run."""

from collections.abc import Iterable

from actors.calls import Answer
from actors.crew.crew import Crew
from actors.crew.gather import gather
from actors.faults.armed import FaultPlan
from moe.planning.plan.seats import Seat


def arm(
    crew: Crew, faults: FaultPlan, step: int, seconds: float, seats: Iterable[Seat] | None = None
) -> None:
    """Arm the processes on some seats, all unless said, which stand after ``step`` steps.

    To be called for every new process before it is built, with whatever it replaces, and for all of
    them after ranks have changed their numbers: the marks know what has happened. Without faults
    nobody is told anything.
    """
    gather(crew, tell_armed(crew, faults, step, seats), "arming faults", seconds)


def tell_armed(
    crew: Crew, faults: FaultPlan, step: int, seats: Iterable[Seat] | None = None
) -> dict[Seat, Answer]:
    """Arm processes as ``arm`` does, and do not wait; return their answers to come."""
    return (
        _told(crew, faults, step, crew.seats if seats is None else seats) if faults.faults else {}
    )


def arm_anew(crew: Crew, faults: FaultPlan, step: int) -> None:
    """Have processes that are taken over suffer these faults and no others; do not wait.

    Those of a command line that was killed have lost their marks, and would happen once more.
    """
    _told(crew, faults, step, crew.seats)


def _told(crew: Crew, faults: FaultPlan, step: int, seats: Iterable[Seat]) -> dict[Seat, Answer]:
    armed = {seat: faults.of_rank(crew.seats.rank(seat), step) for seat in seats}
    return {seat: crew.tell(seat, "arm", own) for seat, own in armed.items()}
