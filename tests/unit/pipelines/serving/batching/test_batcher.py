"""Every sequence ends, with the tokens that it would have alone, whatever comes beside it."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.commands import Batch, BatchOutput, Drawing, Feed
from moe.config.sampling import SampledToken, Sampling
from moe.nn.inference.rows import BLOCK
from pipelines.serving.batching.batcher import Batcher, Room
from pipelines.serving.batching.sequence import Wanted

WORDS = 5


def following(tokens: Sequence[int]) -> int:
    """Return what the model says after these tokens."""
    return hash(tuple(tokens)) % WORDS


def alone(prompt: Sequence[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(following(tokens))
    return tokens[len(prompt) :]


@dataclass
class Ranks:
    """Runs batches in their order on a memory of blocks, and believes nothing.

    What is ``written`` is as old as the ``oldest`` weights that had a part in it.
    """

    room: Room
    memory: dict[tuple[int, int], int] = field(default_factory=dict)
    drawings: dict[int, Drawing] = field(default_factory=dict)
    texts: dict[int, list[int]] = field(default_factory=dict)
    weights: int = 0
    written: dict[tuple[int, int], int] = field(default_factory=dict)
    ends: dict[int, int] = field(default_factory=dict)
    joined: dict[int, int] = field(default_factory=dict)
    oldest: dict[int, int] = field(default_factory=dict)

    def run(self, batch: Batch, prompts: dict[int, tuple[int, ...]]) -> BatchOutput:
        for number in batch.ended:
            del self.drawings[number]
        self.drawings |= batch.begun
        writes = []
        for feed in batch.feeds:
            text = self.texts.setdefault(feed.sequence, list(prompts[feed.sequence]))
            tokens = (text[-1],) if feed.tokens is None else feed.tokens
            assert list(tokens) == text[feed.position : feed.position + len(tokens)]
            places = [(feed.table[at // BLOCK], at % BLOCK) for at in range(feed.position)]
            if self.ends.get(feed.sequence) != feed.position:
                shared = [self.written[place] for place in places]
                self.joined[feed.sequence] = self.weights
                self.oldest[feed.sequence] = min([self.weights, *shared])
            self.ends[feed.sequence] = feed.position + feed.count
            for at in range(feed.position, feed.position + feed.count):
                held = self._held(feed, text, at)
                writes.append((feed.table[at // BLOCK], at % BLOCK, held))
                self.written[writes[-1][:2]] = self.oldest[feed.sequence]
        self.memory |= {(block, offset): value for block, offset, value in writes}
        drawn, scored = {}, {}
        for feed in batch.feeds:
            text = self.texts[feed.sequence]
            end = feed.position + feed.count
            first = 0 if self.room.window is None else max(0, end - self.room.window)
            for at in range(first, end):
                found = self.memory[feed.table[at // BLOCK], at % BLOCK]
                assert found == self._held(feed, text, at)
                written = self.written[feed.table[at // BLOCK], at % BLOCK]
                assert written >= self.joined[feed.sequence], "from weights before it came"
            if feed.draws:
                assert feed.sequence in self.drawings
                assert end == len(text)
                text.append(following(text))
                drawn[feed.sequence] = SampledToken(text[-1], 0.0)
            if feed.targets:
                assert list(feed.targets) == text[feed.position + 1 :][: len(feed.targets)]
                scored[feed.sequence] = tuple(SampledToken(t, -1.0) for t in feed.targets)
        return BatchOutput(batch.number, drawn, scored)

    def _held(self, feed: Feed, text: list[int], at: int) -> int:
        """Return what a position holds: of merged experts, after a prompt also by its end."""
        after = self.room.merged and feed.prompt is not None and at >= feed.prompt
        return hash((feed.adapter, feed.prompt if after else None, *text[: at + 1]))

    def restart(self, known: dict[int, list[int]]) -> None:
        """Lose everything; of the texts, what the driver knows is left."""
        self.memory.clear()
        self.ends.clear()
        self.drawings.clear()
        self.texts = {number: list(tokens) for number, tokens in known.items()}


@st.composite
def rooms(draw: st.DrawFn) -> Room:
    ahead = draw(st.booleans())
    return Room(
        blocks=draw(st.integers(4, 12)),
        running=draw(st.integers(1, 6)),
        window=draw(st.none() | st.integers(1, 40)),
        depth=2 if ahead else draw(st.integers(1, 3)),
        ahead=ahead,
        short=draw(st.integers(0, 50)),
        merged=draw(st.booleans()),
    )


@st.composite
def wishes(draw: st.DrawFn) -> list[Wanted]:
    """Draw prompts that often begin alike, for the model and for two adapters of it."""
    whole = draw(st.lists(st.integers(0, WORDS - 1), min_size=45, max_size=45))
    wanted = []
    for _ in range(draw(st.integers(1, 7))):
        length = draw(st.integers(1, 45))
        prompt = (*whole[:length], draw(st.integers(0, WORDS - 1)))
        scored = draw(st.sampled_from([None, None, 0]))
        most = draw(st.integers(0 if scored is not None else 1, 18))
        own = draw(st.sampled_from([0, 0, 1, 2]))
        wanted.append(Wanted(prompt, most, Sampling(), scored, None, own, own))
    return wanted


@dataclass
class Play:
    """Sequences that come and leave, batches under way, and what each sequence has said so far."""

    room: Room
    budget: int
    of_long: int
    coming: deque[Wanted]
    data: st.DataObject
    asked: dict[int, Wanted] = field(default_factory=dict)
    texts: dict[int, list[int]] = field(default_factory=dict)
    scores: dict[int, int] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)
    flying: deque[tuple[Batch, BatchOutput]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.batcher, self.ranks = Batcher(self.room), Ranks(self.room)

    def go(self) -> None:
        """Play to the end."""
        idle = 0
        while self.coming or any(not self.done(n) for n in self.texts.keys() - self.gone):
            moved = self.happen()
            begun = self.begin()
            landed = self.land(must=not begun)
            idle = 0 if moved or begun or landed else idle + 1
            assert idle < 30, "sequences wait and nothing is computed"

    def happen(self) -> bool:
        """Let a sequence come or leave, lose all ranks, have other weights, or nothing."""
        chance = self.data.draw(st.integers(0, 9))
        if self.coming and (chance < 4 or not self.flying):
            wish = self.coming.popleft()
            number = self.batcher.add(wish)
            self.asked[number], self.texts[number], self.scores[number] = wish, [], 0
        elif chance == 9 and (living := self.texts.keys() - self.gone):
            leaving = self.data.draw(st.sampled_from(sorted(living)))
            self.batcher.end(leaving)
            self.gone.add(leaving)
        elif chance == 8:
            self.batcher.restart()
            self.flying.clear()
            self.ranks.restart({n: [*self.asked[n].prompt, *self.texts[n]] for n in self.texts})
        elif chance == 7:
            self.batcher.renew()
            self.ranks.weights += 1
            return False
        else:
            return False
        return True

    def begin(self) -> bool:
        """Begin a batch, if there is one, and look at it."""
        room = len(self.flying) < self.room.depth
        batch = self.batcher.next(self.budget, self.of_long) if room else None
        if batch is None:
            return False
        prompts = {number: wish.prompt for number, wish in self.asked.items()}
        ends = [feed.position + feed.count for feed in batch.feeds]
        read = sum(
            feed.count
            for feed, end in zip(batch.feeds, ends, strict=True)
            if feed.tokens is not None and end <= len(prompts[feed.sequence])
        )
        assert read <= self.budget + len(batch.feeds)
        assert len({feed.sequence for feed in batch.feeds}) == len(batch.feeds) > 0
        users = [feed.adapter for feed in batch.feeds]
        assert users == sorted(users)
        assert users == [self.asked[feed.sequence].adapter for feed in batch.feeds]
        self.flying.append((batch, self.ranks.run(batch, prompts)))
        return True

    def land(self, must: bool) -> bool:
        """Take what a batch has brought, if one is under way."""
        full = len(self.flying) == self.room.depth
        if not self.flying or not (must or full or self.data.draw(st.booleans())):
            return False
        for outcome in self.batcher.take(*self.flying.popleft()):
            number = outcome.number
            self.scores[number] += len(outcome.scores)
            if outcome.token is not None:
                self.texts[number].append(outcome.token.token)
            if self.done(number):
                self.batcher.end(number)
        return True

    def done(self, number: int) -> bool:
        """Tell whether a sequence has said and scored all that was asked."""
        wish = self.asked[number]
        scored = wish.scored is None or self.scores[number] == len(wish.prompt) - 1
        return scored and len(self.texts[number]) == wish.max_tokens


@given(rooms(), wishes(), st.integers(1, 40), st.integers(1, 40), st.data())
def test_all_end_as_alone(
    room: Room, wanted: list[Wanted], budget: int, of_long: int, data: st.DataObject
) -> None:
    play = Play(room, budget, of_long, deque(wanted), data)
    play.go()
    for number, text in play.texts.items():
        wish = play.asked[number]
        assert text == alone(wish.prompt, wish.max_tokens)[: len(text)]
        if wish.scored is None:
            assert play.scores[number] == 0
        play.batcher.end(number)
    assert play.batcher.pool.used == 0
    assert play.batcher.waiting == play.batcher.running == 0


def test_prompts_that_begin_alike_are_computed_once() -> None:
    batcher = Batcher(Room(blocks=64, running=8))
    same = tuple(range(256))
    for number in range(8):
        batcher.add(Wanted((*same, number, 1, 2), 4, Sampling()))
    batch = batcher.next(1000)
    assert batch is not None
    assert [feed.count for feed in batch.feeds] == [259] + [3] * 7
    assert batcher.counts.cached_tokens == 7 * 256


def test_blocks_are_shared_within_one_root() -> None:
    """Also of an adapter that went and came again under its name, with other weights or not."""
    batcher = Batcher(Room(blocks=64, running=8))
    same = tuple(range(40))
    found = []
    for adapter, root in ((0, None), (1, "a"), (1, "a"), (2, "b"), (3, "a"), (0, None)):
        number = batcher.add(Wanted((*same, 5), 4, Sampling(), None, None, adapter, root))
        batch = batcher.next(1000)
        assert batch is not None
        (feed,) = (each for each in batch.feeds if each.sequence == number)
        found.append((feed.position, feed.adapter))
        batcher.take(batch, BatchOutput(1, {number: SampledToken(0, 0.0)}))
        batcher.end(number)
    assert found == [(0, 0), (0, 1), (32, 1), (0, 2), (32, 3), (32, 0)]


def test_a_long_prompt_leaves_room_for_others() -> None:
    batcher = Batcher(Room(blocks=200, running=8))
    batcher.add(Wanted((1,) * 1500, 4, Sampling()))
    batcher.add(Wanted((2,) * 20, 4, Sampling()))
    for of_long, counts in ((None, [100, 20]), (30, [30])):
        batch = batcher.next(200, of_long)
        assert batch is not None
        assert [f.count for f in batch.feeds if f.count > 1] == counts


def test_short_prompts_are_read_at_once() -> None:
    batcher = Batcher(Room(blocks=200, running=16))
    for number in range(16):
        batcher.add(Wanted((number,) * 64, 4, Sampling()))
    for _ in range(2):
        batch = batcher.next(512, 16)
        assert batch is not None
        assert [feed.count for feed in batch.feeds if feed.count > 1] == [64] * 8


@pytest.mark.parametrize("ahead", [False, True])
def test_stages_have_a_batch_each(ahead: bool) -> None:
    batcher = Batcher(Room(blocks=64, running=8, depth=2, ahead=ahead))
    for number in range(8):
        batcher.add(Wanted((number, 1), 9, Sampling()))
    first = batcher.next(100)
    assert first is not None
    batcher.take(first, BatchOutput(1, {f.sequence: SampledToken(0, 0.0) for f in first.feeds}))
    counts = [len(batch.feeds) for _ in range(2) if (batch := batcher.next(100)) is not None]
    assert counts == ([8, 8] if ahead else [4, 4])


def test_blocks_of_two_weights_are_shared_with_nobody() -> None:
    """The first begins with older weights and goes on with newer ones; its blocks stay its own."""
    batcher, prompt = Batcher(Room(blocks=64, running=4)), tuple(range(40))
    tables = []
    for tokens in (16, 24, 40, 40):
        if tokens != 24:
            batcher.add(Wanted(prompt, 4, Sampling()))
        batch = batcher.next(tokens)
        assert batch is not None
        tables.append(batch.feeds[-1].table)
        if tokens == 16:
            batcher.renew()
    before, first, second, third = tables
    assert before[:1] == first[:1]
    assert not {*first} & {*second}
    assert third[:2] == second[:2]
