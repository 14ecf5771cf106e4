"""Blocks are free, in use or kept, each exactly once."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pipelines.serving.batching.pool import Pool

BLOCKS = 9


class PoolMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool(BLOCKS)
        self.users: list[int] = []
        self.names: dict[int, str] = {}

    @precondition(lambda self: self.pool.available)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        after = data.draw(st.none() | st.sampled_from(range(BLOCKS)))
        block = self.pool.take(after)
        assert block not in self.users
        self.users.append(block)
        self.names.pop(block, None)

    @precondition(lambda self: self.users)
    @rule(data=st.data(), name=st.sampled_from("abcdef"))
    def name(self, data: st.DataObject, name: str) -> None:
        block = data.draw(st.sampled_from(self.users))
        new = self.pool.find(name) is None and block not in self.names
        self.pool.name(block, name)
        if new:
            self.names[block] = name

    @rule(name=st.sampled_from("abcdef"))
    def share(self, name: str) -> None:
        block = self.pool.find(name)
        if block is not None:
            assert self.names[block] == name
            self.pool.share(block)
            self.users.append(block)

    @precondition(lambda self: self.users)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(self.users))
        self.users.remove(block)
        self.pool.give_back(block)

    @rule()
    def forget(self) -> None:
        self.pool.forget()
        self.names.clear()
        assert all(self.pool.find(name) is None for name in "abcdef")

    @invariant()
    def counts(self) -> None:
        assert self.pool.used == len(set(self.users))
        assert self.pool.available == BLOCKS - len(set(self.users))


PoolMachine.TestCase.settings = settings(stateful_step_count=40)
TestPool = PoolMachine.TestCase


def test_the_least_recently_used_block_goes_first() -> None:
    pool = Pool(2)
    for name in "ab":
        block = pool.take()
        pool.name(block, name)
        pool.give_back(block)
    found = pool.find("a")
    assert found is not None
    pool.share(found)
    pool.give_back(found)
    pool.take()
    assert pool.find("b") is None
    assert pool.find("a") == found


def test_a_sequence_gets_the_next_block_and_room_to_grow() -> None:
    pool = Pool(64)
    first = pool.take()
    assert pool.take(first) == first + 1
    other = pool.take()
    assert other - first > 8
    assert pool.take(other) == other + 1
