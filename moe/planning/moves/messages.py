"""The moves of a resize as messages between processes, in one order that all of them keep to.

Each process works through its messages in that order, sends and receives alike, so none waits for
ever: of all messages that have not arrived, the first has both its ends waiting for it. Between two
processes the moves follow each other in messages of bounded size. The order goes through the pairs
in rounds, in which every process gives to one other and takes from one other:

    4 processes, round 1:  0 -> 1  1 -> 2  2 -> 3  3 -> 0
                 round 2:  0 -> 2  1 -> 3  2 -> 0  3 -> 1
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from moe.config.model import ModelConfig
from moe.config.ranges import TensorRange
from moe.errors import PlanError
from moe.planning.counts.workload import Workload
from moe.planning.moves.difference import Difference, Move, diff
from moe.planning.moves.holdings import State
from moe.planning.moves.seating import Seating
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat

Member = tuple[Seat | None, Seat | None]
"""A process by its old seat and its new one."""

MESSAGE_BYTES = 2**24
"""A message has at most so many bytes: a process keeps a few of them in memory at a time."""


@dataclass(frozen=True, slots=True)
class Message:
    """Ranges of one state, all with elements of one size, from one process to another.

    Processes go by their numbers in the group of the resize. ``size`` is in bytes.
    """

    giver: int
    taker: int
    state: State
    ranges: tuple[TensorRange, ...]
    size: int


@dataclass(frozen=True, slots=True)
class Part:
    """What one process does in a resize: its seats before and after, its messages in their order.

    A new process has no ``old`` seat, and one that only gives has no ``new`` one. ``copies`` are
    the old seats whose copies it gives from; with its own among them, those replace what it holds.
    """

    number: int
    old: Seat | None
    new: Seat | None
    messages: tuple[Message, ...]
    copies: tuple[Seat, ...] = ()

    @property
    def sent_bytes(self) -> int:
        """Bytes that it gives."""
        return sum(each.size for each in self.messages if each.giver == self.number)

    @property
    def received_bytes(self) -> int:
        """Bytes that it takes."""
        return sum(each.size for each in self.messages if each.taker == self.number)


@dataclass(frozen=True, slots=True)
class Resize:
    """All moves between two plans, and the part of every process that takes part in them.

    Processes of the new plan have the numbers of their new ranks, and those that only give follow.
    """

    difference: Difference
    parts: tuple[Part, ...]


def resize(
    config: ModelConfig, old: Plan, new: Plan, workload: Workload, seating: Seating
) -> Resize:
    """Return what every process does to come from one plan to another.

    PlanError where no living process holds something that the new plan needs.
    """
    difference = diff(config, old, new, workload, seating)
    _check_given(difference)
    members = _members(old, new, seating, difference)
    messages = defaultdict[int, list[Message]](list)
    copies = defaultdict[Seat | None, list[Seat]](list)
    for message in _ordered(_messages(difference.moves, members), len(members)):
        messages[message.giver].append(message)
        messages[message.taker].append(message)
    for copied, holder in seating.copied.items():
        copies[holder].append(copied)
    parts = (
        Part(number, was, seat, tuple(messages[number]), tuple(copies[was]))
        for number, (was, seat) in enumerate(members)
    )
    return Resize(difference, tuple(parts))


def _members(old: Plan, new: Plan, seating: Seating, difference: Difference) -> list[Member]:
    """Return the processes that take part: those of the new plan, then those that only give."""
    staying = frozenset(seating.stays.values())
    giving = (seat for seat in old.seats if seat in difference.given and seat not in staying)
    return [
        *((seating.stays.get(seat), seat) for seat in new.seats),
        *((seat, None) for seat in giving),
    ]


def _check_given(difference: Difference) -> None:
    if lost := difference.lost:
        raise PlanError(
            f"no process is left that holds {len(lost)} ranges of the new plan, the first of "
            f"{lost[0].range.name} ({lost[0].state}) for {lost[0].to}; restore the run from its "
            "last checkpoint"
        )


def _messages(moves: Iterable[Move], members: Sequence[Member]) -> Iterator[Sequence[Message]]:
    """Yield the messages of each pair of processes."""
    givers = {was: number for number, (was, _) in enumerate(members)}
    takers = {seat: number for number, (_, seat) in enumerate(members)}
    pairs = defaultdict[tuple[int, int, State, int], list[TensorRange]](list)
    for move in moves:
        each = move.size // move.range.elements
        pairs[givers[move.source], takers[move.to], move.state, each].append(move.range)
    together = defaultdict[tuple[int, int], list[Message]](list)
    for (giver, taker, state, each), ranges in pairs.items():
        for held in _filled(ranges, MESSAGE_BYTES // each):
            size = each * sum(one.elements for one in held)
            together[giver, taker].append(Message(giver, taker, state, tuple(held), size))
    yield from together.values()


def _filled(ranges: Iterable[TensorRange], most: int) -> Iterator[list[TensorRange]]:
    """Yield ranges in groups of at most so many elements; a longer range is cut."""
    held, left = list[TensorRange](), most
    for range_ in ranges:
        start = range_.start
        while start < range_.stop:
            stop = min(range_.stop, start + left)
            held.append(TensorRange(range_.part, start, stop))
            left -= stop - start
            start = stop
            if not left:
                yield held
                held, left = [], most
    if held:
        yield held


def _ordered(pairs: Iterable[Sequence[Message]], processes: int) -> list[Message]:
    """Return all messages: the first of every pair in rounds, then the second of every pair."""
    numbered = (
        (turn, (message.taker - message.giver) % processes, message.giver, message)
        for messages in pairs
        for turn, message in enumerate(messages)
    )
    return [message for *_, message in sorted(numbered, key=lambda each: each[:3])]
