"""What every crew must do, whatever carries its commands: cases for a crew of three real ranks.

Cases run in their order on one crew: the last ones kill ranks, then end the crew.
"""

import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from actors.commands import BuildCommand, RankStatus
from actors.crew.crew import Crew
from actors.crew.gather import gather
from actors.state.sources import Opened
from moe.config.model import ModelConfig
from moe.errors import CheckpointError, DeadlineExceeded, LaunchError, RankDied, RankLost
from moe.planning.plan.seats import Seat
from tests import batches, places, plans

FIRST, SECOND, THIRD = Seat(0, 0, 0), Seat(0, 1, 0), Seat(0, 2, 0)
PATIENCE = 60.0
SOON_SECONDS = 5.0
"""A death is known within a second; this is for a machine that others use as well."""
ONE = {"threads": 1}
PAIR = places.plan([[ONE | {"memory_bytes": 2**20}], [ONE]], devices=("test", "test"))
"""Two replicas of two stages: what the crew of three becomes. The first stage asks for more than
the processes have that stay there."""
STAYS = {FIRST: FIRST, Seat(1, 0, 0): THIRD}
COMMAND = BuildCommand(plans.single(plans.SMOLLM2), FIRST, 8)


@dataclass(frozen=True)
class Slow:
    """A source that a rank opens for so long that others are done first; then it is missing."""

    seconds: float

    def config(self) -> ModelConfig:
        return plans.SMOLLM2

    def open(self) -> Opened:
        time.sleep(self.seconds)
        raise CheckpointError("there is no model here")


@dataclass(frozen=True)
class Wrong:
    """A source with a programming error."""

    def config(self) -> ModelConfig:
        return plans.SMOLLM2

    def open(self) -> Opened:
        raise ValueError("a value is wrong")


def answers(crew: Crew) -> None:
    """Each rank answers for itself."""
    statuses = status(crew)
    assert [each.rank for each in statuses] == [0, 1, 2]
    assert len({each.pid for each in statuses}) == 3
    assert crew.lost() == {}


def errors_have_their_types(crew: Crew) -> None:
    """An error of ours arrives as what it is; any other as RankLost, and the rank lives on."""
    with pytest.raises(CheckpointError, match="there is no model here"):
        crew.tell(SECOND, "build", COMMAND, Slow(0.0)).result(PATIENCE)
    with pytest.raises(RankLost, match=r"a rank failed: ValueError\('a value is wrong'\)"):
        crew.tell(SECOND, "build", COMMAND, Wrong()).result(PATIENCE)
    work = batches.fed((1,))
    with pytest.raises(RankLost, match="rank 1 holds no model yet") as raised:
        crew.tell(SECOND, "infer", work).result(PATIENCE)
    assert not isinstance(raised.value, RankDied)
    assert crew.lost() == {}


def commands_run_in_order_and_control_beside_them(crew: Crew) -> None:
    """A status is answered while a command runs, ``settled`` only after it."""
    building = crew.tell(FIRST, "build", COMMAND, Slow(1.5))
    settled = crew.tell(FIRST, "settled")
    found = crew.tell(FIRST, "status").result(PATIENCE)
    assert isinstance(found, RankStatus)
    assert not building.done()
    assert not settled.done()
    settled.result(PATIENCE)
    assert building.done()


def the_first_failure_ends_the_wait(crew: Crew) -> None:
    """Rank 1 fails at once; nobody waits for rank 0, which comes first."""
    slow = crew.tell(FIRST, "build", COMMAND, Slow(5.0))
    given = {FIRST: slow, SECOND: crew.tell(SECOND, "build", COMMAND, Slow(0.0))}
    with pytest.raises(CheckpointError, match="there is no model here"):
        gather(crew, given, "building", PATIENCE)
    assert not slow.done()
    with pytest.raises(CheckpointError):
        slow.result(PATIENCE)


def a_late_rank_is_named(crew: Crew) -> None:
    """The deadline names those that are late, and no other."""
    given = {seat: crew.tell(seat, "settled") for seat in (FIRST, THIRD)}
    given[SECOND] = crew.tell(SECOND, "build", COMMAND, Slow(3.0))
    gather(crew, {seat: given[seat] for seat in (FIRST, THIRD)}, "settling", PATIENCE)
    with pytest.raises(DeadlineExceeded, match=r"ranks \[1\] did not finish building within 0.5 s"):
        gather(crew, given, "building", 0.5)


def an_idle_rank_that_dies_is_known_at_once(crew: Crew) -> None:
    """No command is under way; whoever asks next is told at once."""
    kill(crew, THIRD)
    soon(lambda: THIRD in crew.lost())
    assert list(crew.lost()) == [THIRD]
    with pytest.raises(RankDied):
        crew.tell(THIRD, "status").result(SOON_SECONDS)


def a_rank_that_dies_in_a_command_is_named_before_its_neighbours(crew: Crew) -> None:
    """Rank 0 fails by itself, as a neighbour does; the death of rank 1 is the cause."""
    slow = crew.tell(SECOND, "build", COMMAND, Slow(PATIENCE))
    given = {FIRST: crew.tell(FIRST, "build", COMMAND, Wrong()), SECOND: slow}
    kill(crew, SECOND)
    soon(slow.done)
    with pytest.raises(RankDied, match="rank 1 died during building"):
        gather(crew, given, "building", PATIENCE)


def those_that_died_are_replaced_and_the_others_stay(crew: Crew) -> None:
    """New processes sit on the nodes of the old ones, and answer for the same ranks."""
    before, nodes = crew.tell(FIRST, "status").result(PATIENCE).pid, crew.nodes()
    crew.replace([THIRD, SECOND], PATIENCE)
    statuses = status(crew)
    assert [each.rank for each in statuses] == [0, 1, 2]
    assert statuses[0].pid == before
    assert crew.lost() == {}
    assert list(nodes) == [FIRST, SECOND, THIRD]
    assert crew.nodes() == nodes


def a_rank_that_hangs_is_killed_and_replaced(crew: Crew) -> None:
    """It answers nothing, so only a signal that it cannot refuse ends it."""
    hung = crew.tell(SECOND, "status").result(PATIENCE).pid
    os.kill(hung, signal.SIGSTOP)
    late = crew.tell(SECOND, "status")
    crew.kill(SECOND)
    soon(lambda: list(crew.lost()) == [SECOND])
    with pytest.raises(RankDied):
        late.result(SOON_SECONDS)
    crew.replace([SECOND], PATIENCE)
    assert status(crew)[1].pid != hung


def a_living_rank_can_be_replaced(crew: Crew) -> None:
    """As one that hangs and was not killed: what is left of it is ended first."""
    hung = crew.tell(THIRD, "status").result(PATIENCE).pid
    os.kill(hung, signal.SIGSTOP)
    crew.replace([THIRD], PATIENCE)
    soon(lambda: gone(hung))
    assert status(crew)[2].pid != hung


def a_start_that_takes_too_long_is_an_error_and_leaves_nothing(crew: Crew) -> None:
    """What was begun ends; a seat that was lost stays lost, until another try."""
    before = pids(crew)
    with pytest.raises(LaunchError):
        crew.becoming(PAIR, STAYS, 0.0)
    assert pids(crew) == before
    kill(crew, THIRD)
    soon(lambda: THIRD in crew.lost())
    with pytest.raises(LaunchError):
        crew.replace([THIRD], 0.0)
    assert list(crew.lost()) == [THIRD]
    crew.replace([THIRD], PATIENCE)
    assert pids(crew)[:2] == before[:2]


def a_change_of_plan_that_is_given_up_leaves_the_crew_as_it_was(crew: Crew) -> None:
    """Two crews share three processes; the fourth ends, and the old crew goes on."""
    before = pids(crew)
    other = crew.becoming(PAIR, STAYS | {Seat(1, 1, 0): SECOND}, PATIENCE)
    during = pids(other)
    assert [during[0], *during[2:]] == [before[0], before[2], before[1]]
    assert during[1] not in before
    assert [*other.nodes()] == [*other.seats]
    assert crew.lost() == other.lost() == {}
    other.leave_to(crew)
    soon(lambda: gone(during[1]))
    assert pids(crew) == before


def a_change_of_plan_ends_those_that_have_no_seat(crew: Crew) -> None:
    """The new crew has its processes for itself: a lost one is replaced there."""
    before = pids(crew)
    other = crew.becoming(PAIR, STAYS, PATIENCE)
    during = pids(other)
    crew.leave_to(other)
    soon(lambda: gone(before[1]))
    kill(other, FIRST)
    soon(lambda: list(other.lost()) == [FIRST])
    other.replace([FIRST], PATIENCE)
    after = pids(other)
    assert after[1:] == during[1:]
    assert after[0] != during[0]
    OTHERS[:] = [other]


def the_end_leaves_no_process(crew: Crew) -> None:
    """Also where ranks have died, and in the middle of another change of plan."""
    (other,) = OTHERS
    last = Seat(1, 1, 0)
    third = other.becoming(PAIR, {seat: seat for seat in PAIR.seats if seat != last}, PATIENCE)
    kill(other, FIRST)
    before = [*pids(other, [SECOND, last]), *pids(third, [SECOND, last])]
    assert len({*before}) == 3
    other.end()
    soon(lambda: all(map(gone, before)))
    soon(lambda: len(other.lost()) == 4)


OTHERS: list[Crew] = []
"""What the crew of the cases has become."""

CASES: tuple[Callable[[Crew], None], ...] = (
    answers,
    errors_have_their_types,
    commands_run_in_order_and_control_beside_them,
    the_first_failure_ends_the_wait,
    a_late_rank_is_named,
    an_idle_rank_that_dies_is_known_at_once,
    a_rank_that_dies_in_a_command_is_named_before_its_neighbours,
    those_that_died_are_replaced_and_the_others_stay,
    a_rank_that_hangs_is_killed_and_replaced,
    a_living_rank_can_be_replaced,
    a_start_that_takes_too_long_is_an_error_and_leaves_nothing,
    a_change_of_plan_that_is_given_up_leaves_the_crew_as_it_was,
    a_change_of_plan_ends_those_that_have_no_seat,
    the_end_leaves_no_process,
)


def status(crew: Crew) -> list[RankStatus]:
    return gather(crew, {seat: crew.tell(seat, "status") for seat in crew.seats}, "it", PATIENCE)


def pids(crew: Crew, seats: Iterable[Seat] | None = None) -> list[int]:
    answers = {seat: crew.tell(seat, "status") for seat in seats or crew.seats}
    return [each.pid for each in gather(crew, answers, "it", PATIENCE)]


def kill(crew: Crew, seat: Seat) -> None:
    os.kill(crew.tell(seat, "status").result(PATIENCE).pid, signal.SIGKILL)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or zombie(pid)


def zombie(pid: int) -> bool:
    """Tell whether a process has ended, though nobody has asked for its exit code."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def soon(seen: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON_SECONDS
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.01)
