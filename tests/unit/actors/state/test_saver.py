"""Saving while training goes on: what is saved, what is refused, what a lost neighbour leaves."""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from actors.state.saver import RankSaver
from moe.checkpoint.buffers import Buffers
from moe.checkpoint.records import WrittenFiles
from moe.checkpoint.transfer import DirectTransfer, StreamTransfer
from moe.config.tensors import held_by, tensors
from moe.errors import DeadlineExceeded, RankLost, StorageError
from moe.planning.plan.seats import Seat
from tests import plans, runs, saves
from tests.routed import routed
from tests.streams import FakeCuda

CONFIG = routed(layers=1)
PLAN = runs.plan(CONFIG, (1,), (1, 2), (2, 2))
ALONE = plans.single(CONFIG)
SEAT = Seat(0, 0, 0)


class Gang:
    """Two members with a process group, and threads that write for them."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        store = dist.HashStore()
        self.groups = list(pool.map(lambda member: saves.group(store, member, 2), range(2)))

    def saver(self, member: int) -> RankSaver:
        seat = Seat(0, 0, member)
        return RankSaver(CONFIG, PLAN, seat, self.groups[member], Buffers(DirectTransfer()))

    def write(
        self, saver: RankSaver, to: Path, seconds: float = saves.SECONDS
    ) -> Future[WrittenFiles]:
        return self._pool.submit(saver.write, to, 3, seconds)


@pytest.fixture
def gang() -> Iterator[Gang]:
    with ThreadPoolExecutor(4) as pool:
        yield Gang(pool)


def given(whole: saves.Whole, member: int) -> saves.Given:
    share = PLAN.share(PLAN.seats.seat(member))
    held = {part.name: whole.weight(part).clone() for part in held_by(CONFIG, share)}
    return saves.Given(held, list(whole.states(share, saves.Cuts(1, 0), 0)), whole.balance(share))


def take(saver: RankSaver, own: saves.Given, seconds: float = saves.SECONDS) -> None:
    saver.take(3, own.weights, own.states, own.balance, seconds)


def alone(buffers: Buffers | None = None) -> RankSaver:
    return RankSaver(CONFIG, ALONE, SEAT, None, buffers or Buffers(DirectTransfer()))


def all_of(whole: saves.Whole) -> saves.Given:
    return saves.Given(whole.weights, [], {})


def test_what_is_saved_is_what_was_there_at_the_start(gang: Gang, tmp_path: Path) -> None:
    whole = saves.Whole.of(CONFIG)
    leader, member = gang.saver(0), gang.saver(1)
    own = given(whole, 0)
    take(leader, own)
    writing = gang.write(leader, tmp_path)
    assert leader.unfinished == 3
    for tensor in own.weights.values():
        tensor.fill_(7)
    for state in own.states:
        for value in state.moments.values():
            value.fill_(7)
    other, files = saves.save(member, tmp_path, given(whole, 1)), writing.result()
    assert leader.unfinished is None
    assert files.balance == own.balance
    stored = {tensor.name: tensor for each in (files, other) for tensor in each.tensors}
    assert stored.keys() == {_disk(name) for name in whole.weights}
    for name, tensor in stored.items():
        assert load_file(tmp_path / tensor.file)[name].equal(whole.weights[_ours(name)])
    for piece in files.pieces:
        tensor = next(each for each in tensors(CONFIG) if each.name == _ours(piece.name))
        named = replace(tensor, dim=piece.dim, start=piece.first, stop=piece.last)
        expected = whole.moment(named, piece.moment).reshape(-1)
        assert (piece.start, piece.stop) == (0, expected.numel())
        assert load_file(tmp_path / piece.file)[piece.key].equal(expected)


def test_a_second_snapshot_waits_until_the_first_is_written(gang: Gang, tmp_path: Path) -> None:
    whole = saves.Whole.of(CONFIG)
    leader, member = gang.saver(0), gang.saver(1)
    (tmp_path / "next").mkdir()
    take(leader, given(whole, 0))
    writing = gang.write(leader, tmp_path)
    with pytest.raises(DeadlineExceeded, match=r"rank 0 has not written the checkpoint before"):
        take(leader, given(whole, 0), 0.1)
    assert leader.unfinished == 3
    saves.save(member, tmp_path, given(whole, 1))
    writing.result()
    size = leader.buffers.bytes
    take(leader, given(whole, 0))
    writing = gang.write(leader, tmp_path / "next")
    other = saves.save(member, tmp_path / "next", given(whole, 1))
    assert len((*writing.result().tensors, *other.tensors)) == len(whole.weights)
    assert leader.buffers.bytes == size
    with pytest.raises(DeadlineExceeded, match=r"rank 0 took no snapshot after step 3 within 0 s"):
        leader.write(tmp_path / "next", 3, 0)


def test_storage_that_is_too_slow_is_told(tmp_path: Path) -> None:
    saver = alone()
    take(saver, all_of(saves.Whole.of(CONFIG)))
    with pytest.raises(DeadlineExceeded, match=r"rank 0 did not write .* in 0 s; .* faster"):
        saver.write(tmp_path, 3, 0.0)
    assert saver.unfinished is None


def test_a_neighbour_that_goes_is_told_by_the_write(gang: Gang, tmp_path: Path) -> None:
    leader = gang.saver(0)
    take(leader, given(saves.Whole.of(CONFIG), 0))
    writing = gang.write(leader, tmp_path)
    gang.groups.clear()
    with pytest.raises(RankLost, match="rank 0 failed while it wrote"):
        writing.result()
    assert leader.unfinished is None


def test_a_member_that_leaves_frees_the_leader_that_waits_for_it(
    gang: Gang, tmp_path: Path
) -> None:
    """A saver that is given up holds its process group no longer, which closes its connections."""
    whole, began = saves.Whole.of(CONFIG), time.monotonic()
    leader, member = gang.saver(0), gang.saver(1)
    take(leader, given(whole, 0))
    writing = gang.write(leader, tmp_path)
    gang.groups.clear()
    member.abandon(0.1)
    with pytest.raises(RankLost, match="rank 0 failed while it wrote"):
        writing.result()
    assert time.monotonic() - began < saves.SECONDS / 2


def test_a_save_given_up_does_not_touch_the_next(gang: Gang, tmp_path: Path) -> None:
    """The write of the first still waits for its neighbour, with the buffers it was given."""
    whole, leader, member = saves.Whole.of(CONFIG), gang.saver(0), gang.saver(1)
    take(leader, given(whole, 0))
    writing, before = gang.write(leader, tmp_path), leader.buffers
    with pytest.raises(DeadlineExceeded):
        take(leader, given(whole, 0), 0.5)
    leader.abandon(0.1)
    assert leader.unfinished is None
    leader.abandon(0.1)
    assert leader.buffers is not before
    (tmp_path / "next").mkdir()
    written = saves.save(alone(leader.buffers), tmp_path / "next", all_of(whole))
    assert len(written.tensors) == len(whole.weights)
    gang.groups.clear()
    member.abandon(0.1)
    with pytest.raises(RankLost):
        writing.result()


def test_nothing_is_taken_or_written_after_a_saver_was_given_up(tmp_path: Path) -> None:
    whole = saves.Whole.of(CONFIG)
    saver = alone()
    take(saver, all_of(whole))
    buffers = saver.buffers
    saver.abandon(0.1)
    assert saver.buffers is buffers
    with pytest.raises(RankLost, match="rank 0 has left its epoch"):
        saver.write(tmp_path, 3, 0.1)
    with pytest.raises(RankLost, match="rank 0 has left its epoch"):
        take(saver, all_of(whole))


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    plan = runs.repeated(ALONE, 5)
    saver = RankSaver(CONFIG, plan, Seat(4, 0, 0), None, Buffers(DirectTransfer()))
    with pytest.raises(StorageError, match=r"rank 4 could not write .*nowhere: .*room on the disk"):
        saves.save(saver, tmp_path / "nowhere", all_of(saves.Whole.of(CONFIG)))


def test_a_gang_needs_a_group() -> None:
    with pytest.raises(RankLost, match="a gang of 2 ranks has no process group to save with"):
        RankSaver(CONFIG, PLAN, SEAT, None, Buffers(DirectTransfer()))


def test_what_is_to_be_written_may_be_taken_after_it_is_asked_for(
    gang: Gang, tmp_path: Path
) -> None:
    """The driver of one replica asks all ranks to write; another has its own take a snapshot."""
    whole, saver = saves.Whole.of(CONFIG), alone()
    writing = gang.write(saver, tmp_path)
    take(saver, all_of(whole))
    assert len(writing.result().tensors) == len(whole.weights)


def _disk(name: str) -> str:
    return name.replace(".router.", ".gate.")


def _ours(name: str) -> str:
    return name.replace(".mlp.gate.", ".mlp.router.")


def test_what_a_gpu_copies_beside_its_kernels_is_written_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, written = saves.Whole.of(CONFIG), []
    states = list(whole.states(ALONE.share(SEAT), saves.Cuts(1, 0), 0))
    own = saves.Given({name: weight.clone() for name, weight in whole.weights.items()}, states, {})
    cuda = FakeCuda()
    cuda.install(monkeypatch)
    for transfer in (DirectTransfer(), StreamTransfer(torch.device("cuda", 0))):
        saver, to = alone(Buffers(transfer)), tmp_path / type(transfer).__name__
        to.mkdir()
        with cuda.queueing():
            take(saver, own)
            if isinstance(transfer, StreamTransfer):
                saver.buffers.hold_back()
                for weight in own.weights.values():
                    weight.fill_(-1)
            written.append(saver.write(to, 3, saves.SECONDS))
    assert written[0] == written[1]
    assert written[0].pieces
    files = [
        sorted((tmp_path / name).rglob("*.safetensors"))
        for name in ("DirectTransfer", "StreamTransfer")
    ]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]
