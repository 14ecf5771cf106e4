"""Chooses what goes into the next batch, for continuous batching (Yu et al. 2022, section 3.1).

A batch has one row for every sequence that generates, and parts of the prompts of others as far as
the budget of the batch allows. Sequences join and leave at any batch::

    batch   sequence A           B                C
    7       token 31             prompt 0..99
    8       token 32             prompt 100..163  prompt 0..35
    9       token 33, its last   token 1          prompt 36..40
    10                           token 2          token 1

The sequences of one adapter stand together in a batch: what it adds is computed over all of their
rows at once.

A sequence that needs a block when none is left takes those of the one that came last, which begins
anew when there is room: its tokens are known, so it goes on where it was.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from operator import attrgetter

from actors.commands import Batch, BatchOutput, Drawing, Feed
from moe.config.sampling import SampledToken
from moe.nn.inference.rows import BLOCK, GONE
from pipelines.serving.batching.pool import Pool
from pipelines.serving.batching.sequence import Sequence, Wanted


@dataclass(frozen=True, slots=True)
class Room:
    """What an engine can hold and how it is fed.

    ``blocks`` of keys and values; at most ``running`` sequences at once; ``window`` of positions
    that the model sees, None for all. ``depth`` batches may be under way. With ``ahead``, a batch
    may have the token that the batch before it draws; else a sequence is in one batch at a time. A
    prompt with at most ``short`` tokens left is read at once: it delays others once, not often.
    ``merged``: what comes after a prompt is computed by the whole of it (``moe.nn.segments``), so
    that sequences share blocks of their prompts alone.
    """

    blocks: int
    running: int
    window: int | None = None
    depth: int = 1
    ahead: bool = False
    short: int = 128
    merged: bool = False

    @property
    def tokens(self) -> int:
        """The most tokens of one sequence."""
        return self.blocks * BLOCK

    def over(self, stages: int) -> "Room":
        """Return the room over so many stages.

        One stage runs ahead: it knows the token that it has just drawn. Of several stages, each has
        a batch of its own.
        """
        return replace(self, depth=max(stages, 2), ahead=stages == 1)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a batch brought for one sequence: its next token, and scores of its prompt."""

    number: int
    token: SampledToken | None
    scores: tuple[SampledToken, ...] = ()


@dataclass(slots=True)
class Counts:
    """What a batcher has done so far: tokens of prompts that came in, those of them that were in
    blocks already, and sequences that had to give up their blocks.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    preemptions: int = 0


class Batcher:
    """The waiting and the running sequences, in order of arrival."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.counts = Counts()
        self.pool = Pool(room.blocks)
        self._sequences: dict[int, Sequence] = {}
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._ended: list[int] = []
        self._batches = 0
        self._numbers = 0

    @property
    def waiting(self) -> int:
        """Number of sequences that wait for room."""
        return len(self._waiting)

    @property
    def waiting_tokens(self) -> int:
        """Tokens of the sequences that wait, and the most that will be generated for them."""
        return sum(each.wanted.most_tokens for each in tuple(self._waiting))

    @property
    def running(self) -> int:
        """Number of sequences that have blocks."""
        return len(self._running)

    @property
    def generating(self) -> int:
        """Number of running sequences whose prompt is computed, or will be after the batches under
        way.
        """
        return sum(not each.reading for each in self._running)

    def add(self, wanted: Wanted) -> int:
        """Add a sequence to those that wait; return its number."""
        self._numbers += 1
        sequence = Sequence(self._numbers, wanted, list(wanted.prompt))
        self._sequences[self._numbers] = sequence
        self._waiting.append(sequence)
        return self._numbers

    def end(self, number: int) -> None:
        """Forget a sequence and free its blocks, whether or not it is in a batch under way.

        Ranks work through batches in their order, so its blocks may be used again at once.
        """
        sequence = self._sequences.pop(number, None)
        if sequence is None:
            return
        if sequence in self._running:
            self._running.remove(sequence)
            self._give_back(sequence)
        else:
            self._waiting.remove(sequence)
        if sequence.begun:
            self._ended.append(number)

    def renew(self) -> None:
        """Go on with other weights: nothing computed so far is shared with sequences that come."""
        self.pool.forget()
        for sequence in self._running:
            sequence.mixed = True

    def restart(self, room: Room | None = None) -> None:
        """Begin anew with every sequence, in another room if one is given: what ranks kept is gone
        or not to be used.
        """
        self.room = room or self.room
        order = sorted(self._sequences.values(), key=lambda each: each.number)
        for sequence in order:
            sequence.computed = sequence.unknown = 0
            sequence.table, sequence.named, sequence.begun = [], 0, False
            sequence.mixed = False
            sequence.asked = sequence.scored
        self._waiting, self._running, self._ended = deque(order), [], []
        self.pool = Pool(self.room.blocks)

    def next(self, prompt_tokens: int, of_long: int | None = None) -> Batch | None:
        """Return the next batch, with at most so many tokens of prompts; None if there is nothing
        to compute now.

        ``of_long`` bounds the tokens of long prompts among them, beside which others generate.
        """
        feeds = [*self._generate()]
        feeds += self._read(prompt_tokens, prompt_tokens if of_long is None else of_long)
        if not feeds:
            return None
        feeds.sort(key=attrgetter("adapter"))
        self._batches += 1
        drawing = (self._sequences[feed.sequence] for feed in feeds if feed.draws)
        begun = {each.number: _begin(each) for each in drawing if not each.begun}
        ended, self._ended = tuple(self._ended), []
        return Batch(self._batches, tuple(feeds), begun, ended)

    def take(self, batch: Batch, output: BatchOutput) -> list[Outcome]:
        """Take what a batch has brought, in the order of batches."""
        outcomes = []
        for feed in batch.feeds:
            sequence = self._sequences.get(feed.sequence)
            if sequence is None:
                continue
            token, scores = output.drawn.get(feed.sequence), output.scored.get(feed.sequence, ())
            if token is not None:
                sequence.tokens.append(token.token)
                sequence.unknown -= 1
                self._name(sequence)
            sequence.scored += len(scores)
            outcomes.append(Outcome(feed.sequence, token, scores))
        return outcomes

    def _generate(self) -> Iterable[Feed]:
        """Yield a feed for each sequence whose next token can be computed, oldest first."""
        ready = [each for each in self._running if self._can_generate(each)]
        most = self.generating
        if not self.room.ahead:
            most = -(-most // self.room.depth)
        for sequence in ready[:most]:
            if sequence in self._running and self._make_room(sequence, sequence.computed + 1):
                yield self._feed(sequence, 1)

    def _can_generate(self, sequence: Sequence) -> bool:
        known = sequence.unknown == 0
        waits = not known and (not self.room.ahead or sequence.wanted.allowed is not None)
        left = sequence.computed < sequence.length and not sequence.full
        return left and not sequence.reading and not waits

    def _read(self, budget: int, of_long: int) -> Iterable[Feed]:
        """Yield parts of prompts. While others wait, a long one takes at most half of what is left;
        short ones are read whole, as far as they fit.
        """
        reading = deque(each for each in self._running if each.reading)
        while budget > 0 and (reading or self._admit(reading)):
            sequence = reading.popleft()
            left, most = len(sequence.tokens) - sequence.computed, budget
            if left > self.room.short:
                others = bool(reading) or bool(self._waiting)
                most = min(of_long, max(budget // 2, 1) if others else budget)
            count = min(left, most, _unscored(sequence))
            if count > 0:
                budget -= count
                of_long -= count if left > self.room.short else 0
                yield self._feed(sequence, count)

    def _admit(self, reading: deque[Sequence]) -> bool:
        """Let the sequence that has waited longest begin, if there is room for all its tokens."""
        if not self._waiting or len(self._running) >= self.room.running:
            return False
        sequence = self._waiting[0]
        if sequence.unknown:
            return False
        self._find(sequence)
        missing = sequence.blocks_for(len(sequence.tokens))
        if missing + bool(self._running) > self.pool.available:
            self._give_back(sequence)
            return False
        self._waiting.popleft()
        self._running.append(sequence)
        self._running.sort(key=lambda each: each.number)
        self._extend(sequence, len(sequence.tokens))
        if not sequence.begun:
            self.counts.prompt_tokens += len(sequence.tokens)
            self.counts.cached_tokens += sequence.computed
        reading.append(sequence)
        return True

    def _feed(self, sequence: Sequence, count: int) -> Feed:
        """Return a feed of the next tokens and count them as computed."""
        start, stop = sequence.computed, sequence.computed + count
        tokens = tuple(sequence.tokens[start:stop]) or None
        draws = stop == sequence.length and not sequence.full
        allowed = sequence.wanted.allowed
        feed = Feed(
            sequence.number,
            tokens,
            start,
            tuple(sequence.table),
            draws,
            allowed() if draws and allowed is not None else None,
            *self._targets(sequence, start, stop),
            adapter=sequence.wanted.adapter,
            prompt=len(sequence.wanted.prompt),
        )
        sequence.computed = stop
        sequence.unknown += draws
        self._name(sequence)
        for block in sequence.left_behind(self.room.window):
            self.pool.give_back(block)
        return feed

    def _targets(self, sequence: Sequence, start: int, stop: int) -> tuple[tuple[int, ...], int]:
        """Return the tokens of the prompt that follow the new ones, if they are to be scored."""
        scored, prompt = sequence.wanted.scored, sequence.wanted.prompt
        if scored is None or start < sequence.asked:
            return (), 0
        targets = prompt[start + 1 : stop + 1]
        sequence.asked = start + len(targets)
        return targets, scored

    def _find(self, sequence: Sequence) -> None:
        """Use the blocks that hold the beginning of a sequence already, except of its last token,
        from which the next is drawn.
        """
        if sequence.wanted.scored is not None:
            return
        for number in range(self._shared(sequence, len(sequence.tokens) - 1)):
            block = self.pool.find(sequence.name(number))
            if block is None:
                return
            self.pool.share(block)
            sequence.table.append(block)
            sequence.named += 1
            sequence.computed += BLOCK

    def _name(self, sequence: Sequence) -> None:
        """Name the blocks that are full of known tokens, all computed by the same weights."""
        if sequence.mixed:
            return
        known = self._shared(sequence, min(sequence.computed, len(sequence.tokens)))
        for number in range(sequence.named, known):
            if sequence.table[number] != GONE:
                self.pool.name(sequence.table[number], sequence.name(number))
        sequence.named = known

    def _shared(self, sequence: Sequence, tokens: int) -> int:
        """Return how many blocks of the first tokens of a sequence are the same in others."""
        if self.room.merged:
            tokens = min(tokens, len(sequence.wanted.prompt))
        return tokens // BLOCK

    def _make_room(self, sequence: Sequence, positions: int) -> bool:
        """Give a sequence blocks for so many positions; False if it had to give up its own."""
        while sequence.blocks_for(positions) > self.pool.available:
            last = self._running[-1]
            self._preempt(last)
            if last is sequence:
                return False
        self._extend(sequence, positions)
        return True

    def _extend(self, sequence: Sequence, positions: int) -> None:
        for _ in range(sequence.blocks_for(positions)):
            after = sequence.table[-1] if sequence.table else None
            sequence.table.append(self.pool.take(after))

    def _preempt(self, sequence: Sequence) -> None:
        """Take away the blocks of a sequence; it waits before all others."""
        self._running.remove(sequence)
        self._give_back(sequence)
        self._waiting.appendleft(sequence)
        self.counts.preemptions += 1

    def _give_back(self, sequence: Sequence) -> None:
        """Free all blocks, the last first: what begins alike is kept longest."""
        for block in reversed(sequence.table):
            if block != GONE:
                self.pool.give_back(block)
        sequence.table, sequence.named, sequence.computed = [], 0, 0
        sequence.mixed = False


def _unscored(sequence: Sequence) -> int:
    """Return the most tokens to feed, so that none is scored again after blocks were given up."""
    again = sequence.asked - sequence.computed
    return again if again > 0 else len(sequence.tokens)


def _begin(sequence: Sequence) -> Drawing:
    """Return how a sequence draws, the first time that it does."""
    sequence.begun = True
    prompt = sequence.wanted.prompt
    return Drawing(sequence.wanted.sampling, prompt, tuple(sequence.tokens[len(prompt) :]))
