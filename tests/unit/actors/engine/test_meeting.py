"""A meeting over processes: epochs begin where it is told, and end on every rank."""

import os
import signal
from pathlib import Path

import pytest

from actors.deadlines import Deadlines
from actors.engine.meeting import Meeting
from actors.state.sources import ModelSource
from moe.checkpoint.reader import Checkpoint
from moe.errors import CheckpointError, DeadlineExceeded, RankLost
from tests import runs, tiny
from tests.ranks import Ranks, single_threaded


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.saved(tiny.mixtral(), tmp_path / "model")


@pytest.fixture
def meeting(ranks: Ranks, model: Path) -> Meeting:
    """Two stages that have not been built."""
    plan = single_threaded(runs.plan(Checkpoint.open(model).config, (1, 2)))
    return Meeting("test", plan, ranks.crew(plan.seats), Deadlines(group=20.0))


def test_epochs_are_counted_from_what_a_meeting_is_told(meeting: Meeting, model: Path) -> None:
    meeting.start(ModelSource(model), 0, None)
    assert {(rank.epoch, rank.joined) for rank in meeting.status()} == {(1, True)}
    meeting.epoch = 6
    meeting.begin()
    assert {(rank.epoch, rank.joined) for rank in meeting.status()} == {(7, True)}
    meeting.abort()
    assert {(rank.epoch, rank.joined) for rank in meeting.status()} == {(7, False)}


def test_one_command_that_fails_makes_every_rank_leave_the_epoch(
    meeting: Meeting, model: Path
) -> None:
    """Nobody waits in vain for the rank that failed."""
    meeting.start(ModelSource(model), 0, None)
    seats = meeting.plan.seats
    answers = meeting.tell("snapshot", 0, seats=[seats.seat(1)])
    with pytest.raises(RankLost, match="rank 1 was built to serve, not to train"):
        meeting.gather(answers, "taking a snapshot", 20.0)
    assert [rank.joined for rank in meeting.status()] == [False, False]


def test_a_rank_that_hangs_is_noticed_whatever_it_is_asked(
    ranks: Ranks, meeting: Meeting, model: Path
) -> None:
    """Also where nothing but an answer is waited for: long before a message would be late."""
    meeting.start(ModelSource(model), 0, None)
    hasty = Meeting("test", meeting.plan, meeting.crew, Deadlines(group=60.0, hang=0.5))
    hung = "rank 0 has not answered for 0.5 s during"
    os.kill(ranks.pid(0), signal.SIGSTOP)
    try:
        with pytest.raises(DeadlineExceeded, match=f"{hung} opening the store"):
            hasty.begin()
        with pytest.raises(DeadlineExceeded, match=f"{hung} the answer to status"):
            hasty.status()
    finally:
        ranks.process(0).kill()


def test_ranks_that_cannot_read_their_source_are_ended_with_its_error(
    meeting: Meeting, model: Path
) -> None:
    shards = list(model.glob("*.safetensors"))
    for shard in shards:
        shard.write_bytes(shard.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=shards[0].name):
        meeting.start(ModelSource(model), 0, None)
