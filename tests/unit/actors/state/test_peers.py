"""Copies between ranks that are threads of this process: who holds what, whatever befalls them."""

import gc
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from threading import Thread
from typing import TypeVar

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from actors.commands import CopyReport, Recovery
from actors.state import parcels
from actors.state.peers import Peers
from moe.checkpoint.buffers import Buffers
from moe.checkpoint.transfer import DirectTransfer, StreamTransfer
from moe.config.balance_state import BalanceState
from moe.errors import DeadlineExceeded, RankLost
from moe.planning.plan.seats import Seat, Seats
from tests import saves
from tests.examples import examples
from tests.streams import FakeCuda

SECONDS = 10.0


T = TypeVar("T")


class Ranks:
    """Ranks of so many seats: each alone holds two tensors that its steps change."""

    def __init__(self, count: int, memory: Callable[[], Buffers] | None = None) -> None:
        self.seats = Seats(1, count, 1)
        self._memory = memory or (lambda: Buffers(DirectTransfer()))
        self.peers = {seat: self._new(seat) for seat in self.seats}
        self.meet()

    def meet(self) -> None:
        """Begin an epoch."""
        store, count = dist.HashStore(), len(self.seats)

        def join(seat: Seat) -> None:
            self.peers[seat].join(saves.group(store, self.seats.rank(seat), count))

        self.each(join)

    def lose(self, seat: Seat) -> None:
        """Replace a rank and all that it holds by a new one."""
        self.peers[seat].leave()
        self.peers[seat] = self._new(seat)

    def each(self, act: Callable[[Seat], T]) -> list[T]:
        with ThreadPoolExecutor(len(self.seats)) as pool:
            return list(pool.map(act, self.seats))

    def take(self, step: int) -> None:
        for seat in self.seats:
            self.peers[seat].take(step, held(seat, step), balance(seat, step), SECONDS)

    def exchange(self, step: int, holders: dict[Seat, Seat]) -> list[CopyReport]:
        return self.each(lambda seat: exchanged(self.peers[seat], step, holders))

    def recover(self, recovery: Recovery) -> list[tuple[list[Tensor], object]]:
        def act(seat: Seat) -> tuple[list[Tensor], object]:
            peers = self.peers[seat]
            peers.deliver(recovery, SECONDS, lambda: None)
            peers.keep(recovery.step)
            return peers.contents(recovery.step, held(seat, 0))

        return self.each(act)

    def _new(self, seat: Seat) -> Peers:
        return Peers(self.seats, seat, self._memory)


def exchanged(peers: Peers, step: int, holders: dict[Seat, Seat]) -> CopyReport:
    with peers.travelling(step):
        return peers.exchange(step, holders, SECONDS)


def held(seat: Seat, step: int) -> list[Tensor]:
    """What a rank holds after so many steps; the shares of ranks are of different sizes."""
    number = float(100 * seat.stage + step)
    return [torch.full((5 + 40 * seat.stage,), number), torch.full((3,), -number).bfloat16()]


def balance(seat: Seat, step: int) -> dict[int, BalanceState]:
    return {seat.stage: BalanceState(0.1 * step, (0.25, 0.75), (0.1, 0.9))}


def check_back(ranks: Ranks, step: int, found: Sequence[tuple[list[Tensor], object]]) -> None:
    for seat, (tensors, states) in zip(ranks.seats, found, strict=True):
        pairs = zip(tensors, held(seat, step), strict=True)
        assert all(one.equal(other) for one, other in pairs)
        assert states == balance(seat, step)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcels, "PIECE_BYTES", 64)


@st.composite
def rings(draw: st.DrawFn, seats: Seats) -> dict[Seat, Seat]:
    """Draw who holds whose copy: each one other, in one ring of any order."""
    order = draw(st.permutations(list(seats)))
    return dict(zip(order, [*order[1:], order[0]], strict=True))


@settings(max_examples=examples(5), deadline=None)
@given(st.data())
def test_any_rank_comes_back_whoever_holds_its_copy(data: st.DataObject) -> None:
    ranks = Ranks(data.draw(st.integers(2, 4)))
    step = 0
    for _ in range(data.draw(st.integers(1, 4))):
        step += data.draw(st.integers(1, 3))
        holders = data.draw(rings(ranks.seats))
        ranks.take(step)
        ranks.exchange(step, holders)
        if data.draw(st.booleans()):
            ranks.take(step + 1)  # under way when the rank is lost
        lost = data.draw(st.sampled_from(list(ranks.seats)))
        for peers in ranks.peers.values():
            assert peers.abandon(SECONDS)
        ranks.lose(lost)
        ranks.meet()
        check_back(ranks, step, ranks.recover(Recovery(step, {lost: holders[lost]})))
        assert all(step in peers.copies for peers in ranks.peers.values())
        ranks.exchange(step, data.draw(rings(ranks.seats)))
        assert all(peers.holds for peers in ranks.peers.values())


def test_nothing_is_sent_that_the_holder_has() -> None:
    ranks = Ranks(2)
    one, other = ranks.seats
    ranks.take(3)
    holders = {one: other, other: one}
    sizes = [report.sent for report in ranks.exchange(3, holders)]
    assert sizes == [5 * 4 + 3 * 2, 45 * 4 + 3 * 2]
    assert [report.sent for report in ranks.exchange(3, holders)] == [0, 0]


def test_an_exchange_under_way_is_given_up_and_whole_copies_stay() -> None:
    """The peer does not come; once it has closed its end, the rank has left and goes on."""
    ranks = Ranks(2)
    one, other = ranks.seats
    holders = {one: other, other: one}
    ranks.take(3)
    ranks.exchange(3, holders)
    ranks.take(5)
    failed: Future[None] = Future()

    def exchange() -> None:
        try:
            with ranks.peers[one].travelling(5):
                ranks.peers[one].exchange(5, holders, SECONDS)
        except Exception as error:
            failed.set_exception(error)

    thread = Thread(target=exchange)
    thread.start()
    time.sleep(0.05)
    ranks.peers[one].leave()
    ranks.peers[other].leave()
    thread.join(SECONDS)
    assert failed.exception(0) is not None
    assert ranks.peers[one].copies == {3, 5}
    assert 3 in ranks.peers[one].holds[other]
    ranks.meet()
    check_back(ranks, 3, ranks.recover(Recovery(3)))
    assert ranks.peers[one].copies == {3}
    ranks.take(7)
    ranks.exchange(7, holders)
    assert all(peers.copies == {3, 7} for peers in ranks.peers.values())


def test_a_boundary_that_one_rank_knows_to_be_whole_is_kept_by_all_that_meet_again() -> None:
    """The sum that ends an exchange may reach some ranks alone."""
    ranks = Ranks(2)
    one, other = ranks.seats
    holders = {one: other, other: one}
    for step in (3, 5):
        ranks.take(step)
        ranks.exchange(step, holders)
    for slots in (ranks.peers[other]._own, ranks.peers[other]._held):
        slots.keep(slots.copies[0].seat, 3)
    ranks.meet()
    ranks.take(7)
    assert all(peers.copies == {5, 7} for peers in ranks.peers.values())


def test_a_rank_that_leaves_in_an_exchange_takes_no_boundary_for_whole() -> None:
    """It waits for what its holder wants when it leaves; the holder then says so."""
    ranks = Ranks(2)
    one, other = ranks.seats
    holders = {one: other, other: one}
    for step in (3, 5):
        ranks.take(step)
        ranks.exchange(step, holders)
    ranks.peers[one].keep(3)
    with ThreadPoolExecutor(2) as pool:
        waits = pool.submit(exchanged, ranks.peers[one], 5, holders)
        time.sleep(0.05)
        ranks.peers[one].leave()
        comes = pool.submit(exchanged, ranks.peers[other], 5, holders)
        with pytest.raises(RankLost, match="has left its epoch") as raised:
            waits.result(SECONDS)
        traceback.clear_frames(raised.value.__traceback__)  # as a rank does: they hold the group
        assert comes.exception(SECONDS) is not None
    assert ranks.peers[one].abandon(0.0)


def test_a_rank_that_has_left_its_epoch_waits_for_no_copy() -> None:
    ranks = Ranks(1)
    (peers,) = ranks.peers.values()
    peers.leave()
    with pytest.raises(RankLost, match="has left its epoch"), peers.travelling(5):
        pass
    with pytest.raises(RankLost, match="has left its epoch"):
        peers.exchange(5, {}, 0.01)


def test_a_second_copy_of_a_boundary_does_not_take_the_place_of_the_one_kept() -> None:
    """The copy of rank 1 was on its way to a holder that had that of rank 2 of the same step."""
    ranks = Ranks(3)
    one, two, three = ranks.seats
    for step in (1, 3):
        ranks.take(step)
        ranks.exchange(step, {one: three, two: one, three: two})
    ranks.exchange(3, {one: two, two: three, three: one})
    assert ranks.peers[one].holds == {two: {3}, three: {3}}
    ranks.each(lambda seat: ranks.peers[seat].keep(3))
    ranks.take(5)
    ranks.exchange(5, {one: two, two: three, three: one})
    assert ranks.peers[one].holds == {three: {3, 5}}


def test_a_copy_waits_for_the_exchange_before_and_an_exchange_for_its_copy() -> None:
    ranks = Ranks(1)
    (seat,) = ranks.seats
    peers = ranks.peers[seat]
    peers.take(3, held(seat, 3), {}, SECONDS)
    with (
        peers.travelling(3),
        pytest.raises(DeadlineExceeded, match="still exchanges the copies of 3"),
    ):
        peers.take(5, held(seat, 5), {}, 0.01)
    with pytest.raises(DeadlineExceeded, match="took no copy after 5 steps"):
        peers.exchange(5, {}, 0.01)
    with peers.travelling(5):
        peers.take(5, held(seat, 5), {}, SECONDS)
    assert peers.exchange(5, {}, SECONDS).sent == 0


def test_a_rank_holds_the_copies_of_one_other() -> None:
    ranks = Ranks(3)
    one, two, three = ranks.seats
    ranks.take(3)
    with pytest.raises(RankLost, match="hold the copies of 2 ranks and has room for one"):
        ranks.peers[one].exchange(3, {two: one, three: one}, SECONDS)


@contextmanager
def streams() -> Iterator[FakeCuda]:
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        cuda = FakeCuda()
        cuda.install(patch)
        stack.enter_context(cuda.queueing())
        yield cuda


def test_what_a_gpu_still_copies_is_whole_before_it_travels() -> None:
    with streams():
        ranks = Ranks(2, lambda: Buffers(StreamTransfer(torch.device("cpu"))))
        one, other = ranks.seats
        ranks.take(3)
        ranks.exchange(3, {one: other, other: one})
        ranks.lose(other)
        for peers in ranks.peers.values():
            peers.leave()
        ranks.meet()
        check_back(ranks, 3, ranks.recover(Recovery(3, {other: one})))
        del ranks, peers
        gc.collect()
