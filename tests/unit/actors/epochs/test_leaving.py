"""What a rank does with results of groups that were given up while it waited for them."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from actors.commands import BuildCommand
from actors.device import CpuDevice
from actors.epochs.groups import Groups
from actors.epochs.leaving import leave_groups
from actors.epochs.membership import Membership
from actors.rank.share import LoadedShare
from actors.state.sources import ModelSource
from actors.step.replicas import part_of
from actors.step.training import RankTrainer
from moe.checkpoint.reader import Checkpoint
from moe.errors import RankLost
from moe.nn.inference.layer import Layer
from moe.planning.plan.seats import Seat, Seats
from tests import batches, runs, tiny
from tests.abortable import BACKEND, AbortableGroup, Happening, Play, nothing

TWO = Seats(2, 1, 1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.saved(tiny.mixtral(), tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def share(model: Path) -> Iterator[LoadedShare]:
    """The first of two replicas, in an epoch in which the other adds nothing."""
    plan = runs.repeated(runs.plan(Checkpoint.open(model).config, (3,)), 2)
    command = BuildCommand(plan, Seat(0, 0, 0), runs.LENGTH, runs.run_config(model))
    share = LoadedShare(command, ModelSource(model))
    share.join(joined(5.0))
    yield share
    Play.happening = staticmethod(nothing)
    leave_groups()


class Busy(CpuDevice):
    """A CPU that has work left when it is waited for, in which something happens."""

    def __init__(self, happening: Callable[[], None]) -> None:
        super().__init__()
        object.__setattr__(self, "happening", happening)

    def synchronise(self) -> None:
        self.happening()


def joined(seconds: float) -> Groups:
    membership = Membership("test", 1, Seat(0, 0, 0), TWO, (0,), "", 0, seconds)
    groups = Groups(membership, BACKEND, dist.HashStore())
    groups.connect(CpuDevice())
    return groups


def step(share: LoadedShare) -> None:
    run = share.command.run
    assert run is not None
    trainer = trainer_of(share)
    batch = runs.batch(share.decoder.config, run, trainer.steps_done)
    trainer.step(part_of(batch, run.train, 0, 2), hold_back=lambda: None)


def trainer_of(share: LoadedShare) -> RankTrainer:
    assert share.trainer is not None
    return share.trainer


def state(share: LoadedShare) -> list[Tensor]:
    """Return copies of all weights and moments."""
    moments = [m for s in trainer_of(share).optimizer.states() for m in s.moments.values()]
    return [tensor.detach().clone() for tensor in (*share.decoder.parameters(), *moments)]


def same(before: list[Tensor], after: list[Tensor]) -> bool:
    return all(one.equal(other) for one, other in zip(before, after, strict=True))


def left(group: AbortableGroup) -> None:
    """The engine gave the epoch up, and another thread of the process leaves its groups."""
    thread = threading.Thread(target=leave_groups)
    thread.start()
    thread.join()


def given_up(group: AbortableGroup) -> None:
    """The backend gave one group up by itself, as NCCL does after its time."""
    group.abort()


def aborting(kind: str, how: Callable[[AbortableGroup], None], garbage: float) -> Happening:
    """Abort under the first work of a kind, whose result then is garbage."""

    def happening(group: AbortableGroup, now: str, result: Tensor) -> None:
        if now == kind and not group.aborted:
            how(group)
            result.fill_(garbage)

    return happening


def test_work_that_nobody_gives_up_moves_weights(share: LoadedShare) -> None:
    before = state(share)
    step(share)
    assert not same(before, state(share))
    assert (trainer_of(share).steps_done, trainer_of(share).torn) == (1, False)


@pytest.mark.parametrize("how", [left, given_up])
@pytest.mark.parametrize("garbage", [1e-3, math.nan])
@pytest.mark.parametrize("kind", ["gradients", "account", "norm"])
def test_no_weight_moves_after_a_sum_that_was_given_up(
    kind: str,
    garbage: float,
    how: Callable[[AbortableGroup], None],
    share: LoadedShare,
) -> None:
    step(share)
    before = state(share)
    Play.happening = staticmethod(aborting(kind, how, garbage))
    with pytest.raises((RankLost, RuntimeError), match=r"left epoch 1|communicator was aborted"):
        step(share)
    assert same(before, state(share))
    assert (trainer_of(share).steps_done, trainer_of(share).torn) == (1, False)


@pytest.mark.parametrize("how", [left, given_up])
def test_weights_that_were_given_up_on_their_way_are_torn(
    how: Callable[[AbortableGroup], None], share: LoadedShare
) -> None:
    Play.happening = staticmethod(aborting("weights", how, 1e-3))
    with pytest.raises((RankLost, RuntimeError), match=r"left epoch 1|communicator was aborted"):
        step(share)
    assert (trainer_of(share).steps_done, trainer_of(share).torn) == (0, True)


def test_weights_given_up_while_the_device_is_waited_for_are_torn(share: LoadedShare) -> None:
    """A GPU is given the last kernels of a step long before they are done."""
    group = trainer_of(share)._epoch.groups.data
    assert isinstance(group, AbortableGroup)
    trainer_of(share)._device = Busy(group.abort)
    with pytest.raises(RuntimeError, match="communicator was aborted"):
        step(share)
    assert (trainer_of(share).steps_done, trainer_of(share).torn) == (0, True)


def test_the_last_weights_given_up_are_noticed_too(share: LoadedShare) -> None:
    """No other message of the group follows in the step."""
    buckets, seen = len(trainer_of(share)._buckets), 0

    def happening(group: AbortableGroup, kind: str, result: Tensor) -> None:
        nonlocal seen
        seen += kind == "weights"
        if seen == buckets:
            group.abort()
            result.fill_(1e-3)

    Play.happening = staticmethod(happening)
    with pytest.raises(RuntimeError, match="communicator was aborted"):
        step(share)
    assert trainer_of(share).torn


@pytest.mark.parametrize("how", [left, given_up])
def test_a_token_is_not_believed_once_its_epoch_is_over(
    how: Callable[[AbortableGroup], None], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = runs.plan(Checkpoint.open(model).config, (3,))
    share = LoadedShare(BuildCommand(plan, Seat(0, 0, 0), 0), ModelSource(model))
    groups = joined(5.0)
    share.join(groups)
    share.generator.prepare(batches.HOW)
    work = batches.fed((5,))
    assert share.generator.infer(work) is not None
    group = groups.data
    assert isinstance(group, AbortableGroup)
    layer = Layer.forward
    monkeypatch.setattr(Layer, "forward", lambda *given: (how(group), layer(*given))[1])
    try:
        with pytest.raises((RankLost, RuntimeError), match=r"left epoch 1|was aborted"):
            share.generator.infer(work)
    finally:
        leave_groups()


def test_a_group_that_does_not_connect_fails_in_its_time_and_not_in_the_first_step() -> None:
    waits, over = threading.Event(), time.monotonic() + 10
    Play.happening = staticmethod(lambda group, kind, result: waits.wait(20) and None)
    try:
        with pytest.raises(RankLost, match=r"rank 0 .* within 0.2 s; .*NCCL_SOCKET_IFNAME"):
            joined(0.2)
    finally:
        waits.set()
        Play.happening = staticmethod(nothing)
        leave_groups()
    assert time.monotonic() < over


def test_a_process_leaves_gloo_and_may_leave_twice() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    assert dist.all_reduce(torch.ones(1), async_op=True).wait()
    leave_groups()
    assert not dist.is_initialized()
    leave_groups()
