"""What is left in memory, against a table of whose state each device has."""

from hypothesis import given
from hypothesis import strategies as st

from moe.planning.failures.memory import Memory, seat_of
from moe.planning.plan.seats import Seat
from moe.planning.policy.boundary import newest_boundary
from moe.planning.policy.situation import Standing


@given(
    nodes=st.lists(st.sampled_from("abc"), min_size=1, max_size=8),
    lost=st.lists(st.tuples(st.integers(0, 7), st.booleans()), max_size=6),
)
def test_a_run_can_heal_while_the_state_of_each_is_somewhere(
    nodes: list[str], lost: list[tuple[int, bool]]
) -> None:
    ring = tuple(range(len(nodes)))
    memory = Memory(nodes, copies=True)
    memory.started(ring)
    memory.copied(7)
    stored = {device: {device} for device in ring}
    for of, by in memory.holders.items():
        stored[by.stage].add(of.stage)
    for device, heals in lost:
        memory.lose(frozenset({device}))
        if device in stored:
            stored[device] = set()
        gone = tuple(each for each in ring if each not in memory.living)
        found = newest_boundary(memory.standings(9), tuple(map(seat_of, gone)))
        whole = bool(memory.living) and all(
            any(each in stored[other] for other in memory.living) for each in ring
        )
        assert (found is not None) == whole
        if found is not None:
            assert found.step == (7 if gone else 9)
            assert all(memory.holders[seat_of(each)] == found.gives[seat_of(each)] for each in gone)
        if heals and whole:
            memory.started(ring)
            for each in ring:
                stored[each].add(each)


def test_other_members_and_a_restart_have_no_copies_yet() -> None:
    memory = Memory(tuple("abcd"), copies=True)
    for members in ((0, 1, 2, 3), (0, 1, 3)):
        memory.started(members)
        assert newest_boundary(_without(memory, 0, 5), (seat_of(0),)) is None
        memory.copied(5)
        assert newest_boundary(_without(memory, 0, 5), (seat_of(0),)) is not None
    memory.clear()
    assert not memory.standings(5)
    memory.started((0, 1, 3))
    assert len(memory.standings(0)) == 3
    assert newest_boundary(_without(memory, 0, 0), (seat_of(0),)) is None


def test_a_run_without_copies_has_none() -> None:
    memory = Memory(tuple("ab"), copies=False)
    memory.started((0, 1))
    memory.copied(5)
    assert not memory.holders
    assert newest_boundary(_without(memory, 0, 5), (seat_of(0),)) is None


def _without(memory: Memory, device: int, step: int) -> dict[Seat, Standing]:
    found = dict(memory.standings(step))
    del found[seat_of(device)]
    return found
