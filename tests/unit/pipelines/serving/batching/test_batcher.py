"""Every sequence ends, with the tokens that it would have alone, whatever comes beside it."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.commands import Batch, BatchOutput, Drawing
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
    """Runs batches in their order on a memory of blocks, and believes nothing."""

    room: Room
    memory: dict[tuple[int, int], int] = field(default_factory=dict)
    drawings: dict[int, Drawing] = field(default_factory=dict)
    texts: dict[int, list[int]] = field(default_factory=dict)

    def run(self, batch: Batch, prompts: dict[int, tuple[int, ...]]) -> BatchOutput:
        for number in batch.ended:
            del self.drawings[number]
        self.drawings |= batch.begun
        writes = []
        for feed in batch.feeds:
            text = self.texts.setdefault(feed.sequence, list(prompts[feed.sequence]))
            tokens = (text[-1],) if feed.tokens is None else feed.tokens
            assert list(tokens) == text[feed.position : feed.position + len(tokens)]
            for at in range(feed.position, feed.position + feed.count):
                writes.append((feed.table[at // BLOCK], at % BLOCK, hash(tuple(text[: at + 1]))))
        self.memory |= {(block, offset): value for block, offset, value in writes}
        drawn, scored = {}, {}
        for feed in batch.feeds:
            text = self.texts[feed.sequence]
            end = feed.position + feed.count
            first = 0 if self.room.window is None else max(0, end - self.room.window)
            for at in range(first, end):
                found = self.memory[feed.table[at // BLOCK], at % BLOCK]
                assert found == hash(tuple(text[: at + 1]))
            if feed.draws:
                assert feed.sequence in self.drawings
                assert end == len(text)
                text.append(following(text))
                drawn[feed.sequence] = SampledToken(text[-1], 0.0)
            if feed.targets:
                assert list(feed.targets) == text[feed.position + 1 :][: len(feed.targets)]
                scored[feed.sequence] = tuple(SampledToken(t, -1.0) for t in feed.targets)
        return BatchOutput(batch.number, drawn, scored)

    def restart(self, known: dict[int, list[int]]) -> None:
        """Lose everything; of the texts, what the driver knows is left."""
        self.memory.clear()
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
    )


@st.composite
def wishes(draw: st.DrawFn) -> list[Wanted]:
    """Draw prompts that often begin alike."""
    whole = draw(st.lists(st.integers(0, WORDS - 1), min_size=45, max_size=45))
    wanted = []
    for _ in range(draw(st.integers(1, 7))):
        length = draw(st.integers(1, 45))
        prompt = (*whole[:length], draw(st.integers(0, WORDS - 1)))
        scored = draw(st.sampled_from([None, None, 0]))
        most = draw(st.integers(0 if scored is not None else 1, 18))
        wanted.append(Wanted(prompt, most, Sampling(), scored))
    return wanted


@given(rooms(), wishes(), st.integers(1, 40), st.data())
def test_all_end_as_alone(
    room: Room, wanted: list[Wanted], budget: int, data: st.DataObject
) -> None:
    batcher, ranks = Batcher(room), Ranks(room)
    coming = deque(wanted)
    asked: dict[int, Wanted] = {}
    texts: dict[int, list[int]] = {}
    scores: dict[int, int] = {}
    flying: deque[tuple[Batch, BatchOutput]] = deque()
    gone: set[int] = set()
    idle = 0
    while coming or len(texts) - len(gone) > sum(
        done(asked[n], texts[n], scores[n]) for n in texts.keys() - gone
    ):
        chance = data.draw(st.integers(0, 9))
        if coming and (chance < 4 or not flying):
            wish = coming.popleft()
            number = batcher.add(wish)
            asked[number], texts[number], scores[number] = wish, [], 0
        if chance == 9 and (living := texts.keys() - gone):
            leaving = data.draw(st.sampled_from(sorted(living)))
            batcher.end(leaving)
            gone.add(leaving)
        if chance == 8:
            batcher.restart()
            flying.clear()
            ranks.restart({n: [*asked[n].prompt, *texts[n]] for n in texts})
        batch = batcher.next(budget) if len(flying) < room.depth else None
        if batch is not None:
            new = [feed for feed in batch.feeds if feed.count > 1 or feed.tokens is not None]
            read = sum(
                f.count for f in new if f.position + f.count <= len(asked[f.sequence].prompt)
            )
            assert read <= budget + len(new)
            assert len({feed.sequence for feed in batch.feeds}) == len(batch.feeds)
            prompts = {number: wish.prompt for number, wish in asked.items()}
            flying.append((batch, ranks.run(batch, prompts)))
        if flying and (batch is None or len(flying) == room.depth or data.draw(st.booleans())):
            for outcome in batcher.take(*flying.popleft()):
                scores[outcome.number] += len(outcome.scores)
                if outcome.token is not None:
                    texts[outcome.number].append(outcome.token.token)
                wish = asked[outcome.number]
                if done(wish, texts[outcome.number], scores[outcome.number]):
                    batcher.end(outcome.number)
        idle = 0 if batch is not None or flying else idle + 1
        assert idle < 30, "sequences wait and nothing is computed"
    for number, text in texts.items():
        wish = asked[number]
        assert text == alone(wish.prompt, wish.max_tokens)[: len(text)]
        if number not in gone:
            assert len(text) == wish.max_tokens
            assert scores[number] == (len(wish.prompt) - 1 if wish.scored is not None else 0)
            batcher.end(number)
    assert batcher.pool.used == 0
    assert batcher.waiting == batcher.running == 0


def done(wish: Wanted, text: list[int], scores: int) -> bool:
    scored = wish.scored is None or scores == len(wish.prompt) - 1
    return scored and len(text) == wish.max_tokens


def test_prompts_that_begin_alike_are_computed_once() -> None:
    batcher = Batcher(Room(blocks=64, running=8))
    same = tuple(range(256))
    for number in range(8):
        batcher.add(Wanted((*same, number, 1, 2), 4, Sampling()))
    batch = batcher.next(1000)
    assert batch is not None
    assert [feed.count for feed in batch.feeds] == [259] + [3] * 7
    assert batcher.counts.cached_tokens == 7 * 256


def test_a_long_prompt_leaves_room_for_others() -> None:
    batcher = Batcher(Room(blocks=200, running=8))
    batcher.add(Wanted((1,) * 1500, 4, Sampling()))
    batcher.add(Wanted((2,) * 20, 4, Sampling()))
    batch = batcher.next(200)
    assert batch is not None
    assert [feed.count for feed in batch.feeds] == [100, 20]


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
