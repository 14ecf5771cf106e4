"""The messages of every schedule over a backend that takes them in order: none waits for ever."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from actors.commands import BuildCommand
from actors.device import GLOO, NCCL, CpuDevice
from actors.epochs.groups import Groups
from actors.epochs.leaving import leave_groups
from actors.epochs.lines import DOWN, UP, Line, Route, routes_of
from actors.epochs.membership import Membership
from actors.rank.share import LoadedShare
from actors.state.sources import ModelSource
from actors.step.clock import Clock
from actors.step.mail import Mail, messages_ahead
from actors.step.pipeline import Pipeline, Turn, expected
from moe.checkpoint.reader import Checkpoint
from moe.planning.plan.seats import Seats
from moe.planning.schedules.schedule import Order, actions, one_by_one
from tests import runs, tiny
from tests.queued import BACKEND, STAGES, Stage, unfinished

CHUNKS = {"gpipe": (1,), "1f1b": (1,), "zbv": (2,)}
CASES = [
    (schedule, chunks)
    for schedule in ("gpipe", "1f1b", "interleaved-1f1b", "zero-bubble", "zbv")
    for chunks in CHUNKS.get(schedule, (1, 2, 3, 4))
]
AHEAD = messages_ahead(NCCL)


class Layers:
    """The layers of a stage: they change nothing. ``busy`` is called before each pass."""

    def __init__(self, last: int, stage: Stage, busy: bool) -> None:
        self._last = last
        self._stage = stage
        self._busy = busy

    def forward(self, turn: Turn, x: Tensor | None) -> Tensor:
        self._wait()
        y = torch.zeros(1, requires_grad=True) * 1.0 if x is None else x * 1.0
        y.register_hook(lambda gradient: self._wait())
        return y.sum() if turn.chunk == self._last else y

    def backward(self, output: Tensor, gradient: Tensor | None) -> None:
        torch.autograd.backward(output, gradient)

    def whole(self, chunk: int) -> None:
        """Nothing is told of the gradients."""

    def _wait(self) -> None:
        if self._busy:
            self._stage.wait_for_all()


@contextmanager
def joined(
    homes: tuple[int, ...], stage: int, ways: tuple[str, ...] = (DOWN, UP)
) -> Iterator[Groups]:
    """One stage in an epoch with all others, which take part as the notes of their own turns."""
    STAGES.append(Stage())
    seats = Seats(1, max(homes) + 1, 1)
    membership = Membership("test", 1, seats.seat(stage), seats, homes, "", 0, 20.0)
    try:
        yield Groups(membership, BACKEND, dist.HashStore(), ways)
    finally:
        leave_groups()


def played(
    orders: tuple[Order, ...], ahead: int, busy: bool = False, shared: bool = False
) -> list[Stage]:
    """Play a step on every stage and return what the stages noted.

    ``busy`` has them wait for all messages before each pass; ``shared`` gives both ways between two
    stages one line, as torch does of itself for the ranks of a larger group.
    """
    STAGES.clear()
    homes = homes_of(orders)
    for stage in range(len(orders)):
        with joined(homes, stage) as groups:
            lines = in_pairs(groups.lines) if shared else groups.lines
            if not shared:
                groups.connect(CpuDevice())
            clock = Clock(CpuDevice())
            mail = Mail(lines, (1,), torch.device("cpu"), expected(orders, stage), ahead, clock)
            Pipeline(orders, stage, mail, clock).run(Layers(len(homes) - 1, STAGES[-1], busy))
            groups.check()
    return list(STAGES)


def homes_of(orders: tuple[Order, ...]) -> tuple[int, ...]:
    """Return the stage of every chunk."""
    at = {action.chunk: stage for stage, order in enumerate(orders) for action in order}
    return tuple(at[chunk] for chunk in sorted(at))


def in_pairs(lines: dict[Route, Line]) -> dict[Route, Line]:
    """Return the same routes with one group for both directions of a way."""

    def first(route: Route) -> Route:
        return min(route, Route(route.way, route.receiver, route.sender))

    return {route: lines.get(first(route), line) for route, line in lines.items()}


def messages_of(orders: tuple[Order, ...]) -> int:
    """Return how often a stage sends and another receives."""
    return 2 * sum(len(keys) for s in range(len(orders)) for keys in expected(orders, s).values())


@pytest.mark.parametrize(("schedule", "chunks"), CASES)
def test_every_message_arrives_in_its_order(schedule: str, chunks: int) -> None:
    for stages in range(2, 9):
        orders = actions(schedule, stages, 2 * stages, chunks)
        for ahead in {0, AHEAD} if stages < 5 else {AHEAD}:
            noted = played(orders, ahead)
            asked = sum(len(stage.asked) for stage in noted)
            assert asked == messages_of(orders) + 2 * 2 * len(routes_of(homes_of(orders)))
            assert unfinished(noted) == [], (stages, ahead)


@pytest.mark.parametrize(
    ("schedule", "stages", "chunks"),
    [("zbv", 2, 2), ("zbv", 5, 2), ("interleaved-1f1b", 2, 2), ("zero-bubble", 2, 2)],
)
def test_messages_wait_for_ever_where_two_directions_share_a_communicator(
    schedule: str, stages: int, chunks: int
) -> None:
    """So the model would find it if lines went back to a group for each pair of stages."""
    orders = actions(schedule, stages, 2 * stages, chunks)
    assert unfinished(played(orders, AHEAD)) == []
    assert unfinished(played(orders, AHEAD, shared=True)) != []


@pytest.mark.parametrize(("schedule", "chunks"), CASES)
def test_a_first_step_may_wait_for_the_whole_gpu_anywhere(schedule: str, chunks: int) -> None:
    for stages in (2, 3, 4):
        orders = one_by_one(actions(schedule, stages, 2 * stages, chunks))
        assert unfinished(played(orders, 0, busy=True)) == []


def test_later_steps_must_not_wait_for_the_whole_gpu() -> None:
    """With chunks not even without receives ahead: two stages wait until the other asks.

    That is why the first step goes another way.
    """
    assert unfinished(played(actions("1f1b", 2, 4), AHEAD, busy=True)) != []
    assert unfinished(played(actions("interleaved-1f1b", 2, 4, 2), 0, busy=True)) != []
    assert unfinished(played(one_by_one(actions("1f1b", 2, 4)), AHEAD, busy=True)) != []


def test_a_server_opens_nothing_for_gradients() -> None:
    STAGES.clear()
    with joined((0, 1), 0) as groups:
        assert set(groups.lines) == {Route(DOWN, 0, 1), Route(UP, 1, 0)}
        assert groups.ends is not None
    with joined((0, 1), 0, (DOWN,)) as groups:
        assert set(groups.lines) == {Route(DOWN, 0, 1)}
        assert groups.ends is None


def test_receives_are_asked_for_as_far_ahead_as_their_backend_allows() -> None:
    assert (messages_ahead(GLOO), messages_ahead(NCCL)) == (2, 1)
    for ahead in (0, 1, 2):
        (_, second) = played(actions("gpipe", 2, 6), ahead)
        step = [asked for asked in second.asked if not asked.sends][1:-1]
        waits = [asked.after for asked in step]
        assert waits.count(min(waits)) == 1 + ahead


def test_the_first_step_of_an_epoch_goes_one_by_one(tmp_path: Path) -> None:
    """Kernels are loaded and memory grows in it; the second step is that of the schedule."""
    model = tiny.saved(tiny.mixtral(), tmp_path / "model")
    run = runs.run_config(model, train={"micro_batch": 4})
    config = Checkpoint.open(model).config
    plan = runs.plan(config, (1, 2))
    command = BuildCommand(plan, plan.seats.seat(0), runs.LENGTH, run)
    share = LoadedShare(command, ModelSource(model))
    assert share.trainer is not None
    noted: list[list[bool]] = []
    with joined(plan.homes, 0) as groups:
        groups.connect(CpuDevice())
        share.join(groups)
        for step in range(2):
            before = len(STAGES[-1].asked)
            share.trainer.step(replace(runs.batch(config, run, step), labels=None), lambda: None)
            noted.append([asked.sends for asked in STAGES[-1].asked[before:][:4]])
        share.leave()
    assert noted == [[True, False, True, False], [True, True, False, False]]
