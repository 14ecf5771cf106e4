"""Messages of a resize: all that moves, once, in bounded pieces; nobody waits for ever."""

from collections import defaultdict, deque
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.config.model import ModelConfig
from moe.errors import PlanError
from moe.planning.counts.workload import BF16, FLOAT32, Workload
from moe.planning.moves.messages import MESSAGE_BYTES, Part, Resize, resize
from moe.planning.moves.seating import Seating
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat
from tests import runs
from tests.elements import elements_of
from tests.examples import examples
from tests.plans import SMOLLM2, configs, replicated, with_experts

TRAINING = Workload(8, 1, 1)
NAMES = [f"a/{number}" for number in range(12)]


@st.composite
def resizes(draw: st.DrawFn) -> tuple[ModelConfig, Plan, Plan, Seating, Resize]:
    """Draw two plans of a model, and who stays; nobody is lost."""
    config = draw(configs())
    old, new = (draw(replicated(config, NAMES)) for _ in range(2))
    order = draw(st.permutations(list(old.seats)))
    stays = dict(zip(new.seats, order[: draw(st.integers(0, len(order)))], strict=False))
    seating = Seating(stays, frozenset(), {}, {})
    workload = replace(TRAINING, numerics=draw(st.sampled_from([FLOAT32, BF16])))
    return config, old, new, seating, resize(config, old, new, workload, seating)


@settings(max_examples=examples(60))
@given(resizes())
def test_messages_have_every_move_once(
    case: tuple[ModelConfig, Plan, Plan, Seating, Resize],
) -> None:
    *_, found = case
    numbers = {part.old: part.number for part in found.parts if part.old is not None}
    moved: dict[object, int] = defaultdict(int)
    for move in found.difference.moves:
        assert move.source is not None
        for element in elements_of(move.range):
            moved[numbers[move.source], move.to, move.state, move.range.name, int(element)] += 1
    for part in found.parts:
        for message in part.messages:
            for range_ in message.ranges if message.taker == part.number else ():
                for element in elements_of(range_):
                    moved[message.giver, part.new, message.state, range_.name, int(element)] -= 1
    assert not any(moved.values())
    assert sum(part.sent_bytes for part in found.parts) == found.difference.bytes
    assert sum(part.received_bytes for part in found.parts) == found.difference.bytes


@settings(max_examples=examples(60))
@given(resizes())
def test_whoever_has_a_part_has_a_seat_or_gives(
    case: tuple[ModelConfig, Plan, Plan, Seating, Resize],
) -> None:
    _, _, new, seating, found = case
    assert [part.number for part in found.parts] == list(range(len(found.parts)))
    assert [part.new for part in found.parts[: len(new.seats)]] == list(new.seats)
    assert [part.old for part in found.parts if part.new] == list(map(seating.stays.get, new.seats))
    for part in found.parts[len(new.seats) :]:
        assert part.new is None
        assert part.old not in seating.stays.values()
        assert part.sent_bytes > 0 == part.received_bytes


@settings(max_examples=examples(60))
@given(resizes())
def test_processes_that_wait_for_their_first_message_all_end(
    case: tuple[ModelConfig, Plan, Plan, Seating, Resize],
) -> None:
    *_, found = case
    check_ends(found.parts)


def check_ends(parts: tuple[Part, ...]) -> None:
    """Deliver only what both its ends have come to."""
    waiting = [deque(part.messages) for part in parts]
    while any(waiting):
        heads = {queue[0] for queue in waiting if queue}
        there = [each for each in heads if each == waiting[each.giver][0] == waiting[each.taker][0]]
        assert there
        for each in there:
            waiting[each.giver].popleft()
            waiting[each.taker].popleft()


def test_large_tensors_are_cut_and_a_round_gives_each_process_one_message_of_each_way() -> None:
    config = replace(SMOLLM2, tie_embeddings=False)
    old, new = (runs.repeated(runs.plan(config, (30,)), replicas) for replicas in (2, 4))
    stays = dict(zip(new.seats, old.seats, strict=False))
    found = resize(config, old, new, TRAINING, Seating(stays, frozenset(), {}, {}))
    sizes = [message.size for part in found.parts for message in part.messages]
    assert max(sizes) <= MESSAGE_BYTES < 4 * config.vocab_size * config.hidden_size
    assert sum(sizes) == 2 * found.difference.bytes
    check_ends(found.parts)
    for part in found.parts[2:]:
        givers = [message.giver for message in part.messages[:2]]
        assert sorted(givers) == [0, 1]


def test_what_nobody_holds_is_named() -> None:
    config = with_experts(replace(SMOLLM2, layers=4), 2)
    old, new = runs.plan(config, (2, 2)), runs.plan(config, (4,))
    lost = frozenset({Seat(0, 1, 0)})
    seating = Seating({Seat(0, 0, 0): Seat(0, 0, 0)}, lost, {}, {})
    with pytest.raises(PlanError, match=r"no process is left that holds .* restore the run"):
        resize(config, old, new, TRAINING, seating)
    copied = replace(seating, copied={Seat(0, 1, 0): Seat(0, 0, 0)})
    found = resize(config, old, new, TRAINING, copied)
    assert found.difference.bytes == 0
    assert found.parts == (Part(0, Seat(0, 0, 0), Seat(0, 0, 0), (), (Seat(0, 1, 0),)),)
