"""A snapshot is a value; its slot goes through its phases in order, whoever waits for whom."""

import pickle
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from actors.state.snapshots import Phase, Snapshot, Snapshots
from moe.checkpoint.buffers import Buffers
from moe.checkpoint.records import OwnedState
from moe.checkpoint.transfer import DirectTransfer
from moe.config.balance_state import BalanceState
from moe.config.ranges import TensorRange
from moe.config.role import Role
from moe.config.tensors import TensorSlice
from moe.errors import DeadlineExceeded, RankLost
from tests.examples import examples

SOON = 0.02
PATIENCE = 20.0


def snapshot(step: int = 3) -> Snapshot:
    part = TensorSlice("a", (4, 6), Role("down"), 1, 2, 5)
    moments = {"exp_avg": torch.arange(4.0), "exp_avg_sq": torch.arange(4.0) + 10}
    states = (OwnedState(TensorRange(part, 5, 9), moments),)
    return Snapshot(step, ((part, torch.randn(4, 3)),), states, {1: BalanceState(0.5)})


def test_a_copy_is_in_memory_of_its_own_and_says_the_same() -> None:
    buffers, live = Buffers(DirectTransfer()), snapshot()
    copy = live.copied(buffers)
    before = [tensor.clone() for tensor in live.tensors]
    for tensor in live.tensors:
        tensor.fill_(-1)
    assert all(one.equal(other) for one, other in zip(copy.tensors, before, strict=True))
    assert [state.range for state in copy.states] == [state.range for state in live.states]
    assert (copy.step, copy.balance) == (3, live.balance)
    again = live.copied(buffers)
    assert [one.data_ptr() for one in again.tensors] == [one.data_ptr() for one in copy.tensors]


def test_it_can_be_sent() -> None:
    """A neighbour may hold it: no file, no place and no thread is in it."""
    live = snapshot()
    there: Snapshot = pickle.loads(pickle.dumps(live))
    assert all(one.equal(other) for one, other in zip(there.tensors, live.tensors, strict=True))
    assert [part for part, _ in there.weights] == [part for part, _ in live.weights]
    assert [state.range for state in there.states] == [state.range for state in live.states]
    assert (there.step, there.balance) == (live.step, live.balance)


class Slot(RuleBasedStateMachine):
    """One slot, used in any order; a model of one variable says what must happen."""

    def __init__(self) -> None:
        super().__init__()
        self.slot = Snapshots(rank=1)
        self.held: int | None = None
        self.closed = False

    def refused(self) -> AbstractContextManager[object]:
        return pytest.raises(RankLost if self.closed else DeadlineExceeded)

    @rule(step=st.integers(1, 3))
    def put(self, step: int) -> None:
        if self.closed or self.held is not None:
            with self.refused():
                self.slot.put(step, lambda: snapshot(step), 0.0)
        else:
            self.slot.put(step, lambda: snapshot(step), 0.0)
            self.held = step

    @rule(step=st.integers(1, 3), fails=st.booleans())
    def take(self, step: int, fails: bool) -> None:
        if self.closed or self.held is None:
            with self.refused(), self.slot.taken(step, 0.0):
                raise AssertionError("nothing is there")
        elif self.held != step:
            with pytest.raises(RankLost, match="no longer agree"), self.slot.taken(step, 0.0):
                raise AssertionError("that is not the one asked for")
        else:
            try:
                with self.slot.taken(step, 0.0) as found:
                    assert found.step == step == self.slot.unfinished
                    assert self.slot.phase is Phase.TAKEN
                    with pytest.raises(DeadlineExceeded):
                        self.slot.put(step + 1, lambda: snapshot(step + 1), 0.0)
                    if fails:
                        raise OSError("no room")
            except OSError:
                assert fails
            self.held = None

    @rule()
    def a_copy_fails(self) -> None:
        def fail() -> Snapshot:
            assert self.slot.phase is Phase.FILLING
            raise MemoryError

        if not self.closed and self.held is None:
            with pytest.raises(MemoryError):
                self.slot.put(7, fail, 0.0)

    @precondition(lambda self: not self.closed)
    @rule()
    def close(self) -> None:
        assert self.slot.close(0.0)
        self.closed, self.held = True, None

    def teardown(self) -> None:
        assert self.slot.unfinished == self.held
        assert self.slot.phase is (Phase.EMPTY if self.held is None else Phase.FULL)


TestSlot = Slot.TestCase
TestSlot.settings = settings(max_examples=examples(60), stateful_step_count=12)


@pytest.fixture
def pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(2)


def use(slot: Snapshots, until: threading.Event) -> int:
    with slot.taken(3, PATIENCE) as found:
        until.wait(PATIENCE)
        return found.step


def test_who_asks_first_is_told_when_the_snapshot_is_there(pool: ThreadPoolExecutor) -> None:
    slot, done = Snapshots(0), threading.Event()
    done.set()
    with pool:
        asked = pool.submit(use, slot, done)
        while slot.unfinished != 3:
            pass
        slot.put(3, snapshot, PATIENCE)
        assert asked.result() == 3


def test_who_puts_waits_until_the_one_before_is_given_back(pool: ThreadPoolExecutor) -> None:
    slot, done = Snapshots(0), threading.Event()
    slot.put(3, snapshot, PATIENCE)
    with pool:
        using = pool.submit(use, slot, done)
        put: Future[None] = pool.submit(slot.put, 4, lambda: snapshot(4), PATIENCE)
        with pytest.raises(TimeoutError):
            put.result(SOON)
        done.set()
        put.result(PATIENCE)
        assert using.result() == 3
        assert slot.unfinished == 4


def test_closing_frees_who_waits_and_tells_whether_memory_is_free(
    pool: ThreadPoolExecutor,
) -> None:
    slot, done = Snapshots(0), threading.Event()
    slot.put(3, snapshot, PATIENCE)
    with pool:
        using = pool.submit(use, slot, done)
        while slot.phase is not Phase.TAKEN:
            pass
        put: Future[None] = pool.submit(slot.put, 4, lambda: snapshot(4), PATIENCE)
        assert not slot.close(SOON)
        with pytest.raises(RankLost, match="rank 0 has left its epoch and gave up its snapshots"):
            put.result(PATIENCE / 2)
        assert slot.unfinished is None
        done.set()
        assert slot.close(PATIENCE)
        assert using.result() == 3


def test_a_slot_closed_while_a_snapshot_is_copied_keeps_none(pool: ThreadPoolExecutor) -> None:
    slot, begun, done = Snapshots(0), threading.Event(), threading.Event()

    def copy() -> Snapshot:
        begun.set()
        done.wait(PATIENCE)
        return snapshot()

    with pool:
        put: Future[None] = pool.submit(slot.put, 3, copy, PATIENCE)
        assert begun.wait(PATIENCE)
        assert slot.phase is Phase.FILLING
        assert not slot.close(SOON)
        closed = pool.submit(slot.close, PATIENCE)
        done.set()
        with pytest.raises(RankLost):
            put.result(PATIENCE)
        assert closed.result(PATIENCE / 2)
