"""Saving while training goes on: what is saved, what is refused, what a lost neighbour leaves."""

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from actors.state.saver import RankPlace, ShareSaver
from moe.checkpoint.records import OwnedState, WrittenFiles
from moe.config.share import whole as whole_share
from moe.config.tensors import held_by, tensors
from moe.errors import DeadlineExceeded, RankLost, StorageError
from tests import runs, saves
from tests.routed import routed

CONFIG = routed(layers=1)
PLAN = runs.plan(CONFIG, (1,), (1, 2), (2, 2))
GANG = [PLAN.share(member) for member in range(2)]


class Blocking:
    """Holds the leader's joining up until its neighbour is let go."""

    def __init__(self) -> None:
        self.store = dist.HashStore()
        self.groups: dict[int, dist.ProcessGroup | None] = {}
        threads = [threading.Thread(target=self._open, args=(member,)) for member in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _open(self, member: int) -> None:
        self.groups[member] = saves.group(self.store, member, 2)

    def saver(self, member: int) -> ShareSaver:
        place = RankPlace(member, 0, 1, member)
        return ShareSaver(CONFIG, GANG, place, self.groups[member])


def held(whole: saves.Whole, member: int) -> Mapping[str, torch.Tensor]:
    return {part.name: whole.weight(part).clone() for part in held_by(CONFIG, GANG[member])}


def states(whole: saves.Whole, member: int) -> list[OwnedState]:
    return list(whole.states(GANG[member], saves.Cuts(1, 0), 0))


def test_what_is_saved_is_what_was_there_at_the_start(tmp_path: Path) -> None:
    whole, gang = saves.Whole.of(CONFIG), Blocking()
    leader, member = gang.saver(0), gang.saver(1)
    weights, owned = held(whole, 0), states(whole, 0)
    leader.take(weights, owned, saves.SECONDS)
    leader.start(tmp_path)
    assert leader.unfinished == 0
    for tensor in weights.values():
        tensor.fill_(7)
    for state in owned:
        for value in state.moments.values():
            value.fill_(7)
    other = member.save(tmp_path, held(whole, 1), states(whole, 1), saves.SECONDS)
    own = leader.finish(saves.SECONDS)
    assert leader.unfinished is None
    stored = {tensor.name: tensor for files in (own, other) for tensor in files.tensors}
    assert stored.keys() == {f"{name}" for name in _disk_names()}
    for name, tensor in stored.items():
        assert load_file(tmp_path / tensor.file)[name].equal(whole.weights[_ours(name)])
    for piece in own.pieces:
        part = next(each for each in tensors(CONFIG) if each.name == _ours(piece.name))
        part = replace(part, dim=piece.dim, start=piece.first, stop=piece.last)
        expected = whole.moment(part, piece.moment)
        assert load_file(tmp_path / piece.file)[piece.key].equal(expected.reshape(-1))


def test_a_second_snapshot_waits_until_the_first_is_collected(tmp_path: Path) -> None:
    whole, gang = saves.Whole.of(CONFIG), Blocking()
    leader, member = gang.saver(0), gang.saver(1)
    (tmp_path / "next").mkdir()
    leader.take(held(whole, 0), states(whole, 0), saves.SECONDS)
    leader.start(tmp_path)
    with pytest.raises(DeadlineExceeded, match=r"rank 0 has not written the checkpoint before"):
        leader.take(held(whole, 0), states(whole, 0), 0.1)
    with pytest.raises(DeadlineExceeded, match=r"rank 0 did not write .* in 0\.1 s"):
        leader.finish(0.1)
    assert leader.unfinished == 0
    member.save(tmp_path, held(whole, 1), states(whole, 1), saves.SECONDS)
    leader.finish(saves.SECONDS)
    size = leader.buffers.bytes
    for saver, number in ((leader, 0), (member, 1)):
        saver.take(held(whole, number), states(whole, number), saves.SECONDS)
        saver.start(tmp_path / "next")
    assert isinstance(leader.finish(saves.SECONDS), WrittenFiles)
    member.finish(saves.SECONDS)
    assert leader.buffers.bytes == size
    with pytest.raises(StorageError, match="no checkpoint was started"):
        leader.finish(1)
    with pytest.raises(DeadlineExceeded, match=r"rank 0 took no snapshot for .*next within 0 s"):
        leader.start(tmp_path / "next")


def test_a_neighbour_that_goes_is_told_by_finish(tmp_path: Path) -> None:
    whole, gang = saves.Whole.of(CONFIG), Blocking()
    leader = gang.saver(0)
    leader.take(held(whole, 0), states(whole, 0), saves.SECONDS)
    leader.start(tmp_path)
    gang.groups.clear()
    with pytest.raises(RankLost, match="rank 0 failed while it wrote"):
        leader.finish(saves.SECONDS)
    assert leader.unfinished is None


def test_a_save_given_up_does_not_touch_the_next(tmp_path: Path) -> None:
    """The thread of the first still waits for its neighbour, with the buffers it was given."""
    whole, gang = saves.Whole.of(CONFIG), Blocking()
    leader = gang.saver(0)
    leader.take(held(whole, 0), states(whole, 0), saves.SECONDS)
    leader.start(tmp_path)
    with pytest.raises(DeadlineExceeded):
        leader.finish(0.5)
    leader.abandon(0.1)
    assert leader.unfinished is None
    leader.abandon(0.1)
    alone = ShareSaver(
        CONFIG, [whole_share(CONFIG)], RankPlace(0, 0, 1, 0), None, buffers=leader.buffers
    )
    (tmp_path / "next").mkdir()
    written = alone.save(tmp_path / "next", whole.weights, [], saves.SECONDS)
    assert len(written.tensors) == len(whole.weights)
    gang.groups.clear()


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    whole = saves.Whole.of(CONFIG)
    saver = ShareSaver(CONFIG, [whole_share(CONFIG)], RankPlace(0, 0, 1, 4), None)
    saver.take(whole.weights, [], saves.SECONDS)
    saver.start(tmp_path / "nowhere")
    with pytest.raises(StorageError, match=r"rank 4 could not write .*nowhere: .*room on the disk"):
        saver.finish(saves.SECONDS)


def test_a_gang_needs_a_group() -> None:
    with pytest.raises(RankLost, match="a gang of 2 ranks has no process group to save with"):
        ShareSaver(CONFIG, GANG, RankPlace(0, 0, 1, 0), None)


def _disk_names() -> list[str]:
    return [_disk(name) for name in saves.Whole.of(CONFIG).weights]


def _disk(name: str) -> str:
    return name.replace(".router.", ".gate.")


def _ours(name: str) -> str:
    return name.replace(".mlp.gate.", ".mlp.router.")


def test_what_is_to_be_written_may_be_taken_after_it_is_asked_for(tmp_path: Path) -> None:
    """The driver of one replica asks all ranks to write; another has its own take a snapshot."""
    whole = saves.Whole.of(CONFIG)
    saver = ShareSaver(CONFIG, [whole_share(CONFIG)], RankPlace(0, 0, 1, 0), None)
    asked = threading.Thread(target=saver.start, args=(tmp_path, saves.SECONDS))
    asked.start()
    saver.take(whole.weights, [], saves.SECONDS)
    asked.join()
    assert len(saver.finish(saves.SECONDS).tensors) == len(whole.weights)
