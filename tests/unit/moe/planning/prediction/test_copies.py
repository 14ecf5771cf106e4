"""Whether copies fit: for every rank two of its own and two of the largest other rank."""

from dataclasses import replace

from moe.config.tensors import held_by
from moe.planning.counts.work import Parameters
from moe.planning.counts.workload import Workload
from moe.planning.prediction.copies import room_for_copies
from moe.planning.prediction.predict import rank_bytes_of
from moe.planning.search.make import make_plan
from tests.plans import SMOLLM2, inventory, single

WORKLOAD = Workload(sequence_length=128, micro_batch=1, micro_batches=4)


def test_every_rank_has_room_for_the_largest_other() -> None:
    there = inventory(3)
    plan = make_plan(SMOLLM2, there, 3, 1, WORKLOAD)
    sizes = [
        12 * Parameters.of(held_by(SMOLLM2, plan.share(seat))).total
        for seat in plan.seats.of_replica(0)
    ]
    assert sizes[0] != sizes[1]
    room = room_for_copies(SMOLLM2, plan, there, WORKLOAD)
    assert room.fits
    peers = [max(sizes[1:]), max(sizes[0], sizes[2]), max(sizes[:2])]
    assert list(room.taken) == [2 * own + 2 * peer for own, peer in zip(sizes, peers, strict=True)]
    assert room.told.startswith("copies of ranks in their peers take at most ")


def test_what_is_short_is_told_with_what_to_do_without() -> None:
    plan = make_plan(SMOLLM2, inventory(2), 2, 1, WORKLOAD)
    needs = [each.total for each in rank_bytes_of(SMOLLM2, plan, WORKLOAD)]
    less = inventory(2, memory_bytes=max(needs) + 1)
    room = room_for_copies(SMOLLM2, plan, less, WORKLOAD)
    assert not room.fits
    wanted = [need + taken for need, taken in zip(needs, room.taken, strict=True)]
    assert list(room.short) == [each - (max(needs) + 1) for each in wanted]
    assert "Without them every loss sends the run back to its last checkpoint" in room.told
    assert f"rank {wanted.index(max(wanted))} lacks" in room.told


def test_a_rank_alone_has_no_peer_and_a_gpu_keeps_copies_on_its_host() -> None:
    alone, there = single(SMOLLM2), inventory(1)
    own = 12 * Parameters.of(held_by(SMOLLM2, alone.share(alone.seats.seat(0)))).total
    room = room_for_copies(SMOLLM2, alone, there, WORKLOAD)
    assert room.taken == (2 * own,)
    gpus = replace(WORKLOAD, gpus=True)
    host = rank_bytes_of(SMOLLM2, alone, gpus)[0].host
    small = inventory(1, kind="H100", host_bytes=host + 1)
    assert room_for_copies(SMOLLM2, alone, small, gpus).short == (2 * own - 1,)
    unknown = inventory(1, kind="H100")
    assert room_for_copies(SMOLLM2, alone, unknown, gpus).fits
