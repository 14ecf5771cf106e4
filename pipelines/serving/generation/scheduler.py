"""Runs all generations together, in batches.

One thread calls the engine. It begins the next batch before it waits for the last, where the engine
allows that, and turns tokens into text while the ranks compute. Handlers on the event loop submit
generations and read streams.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, cast

from actors.commands import AdapterSource, Batch
from moe.errors import DeadlineExceeded, OutOfMemory, RankLost, RaymoeError
from pipelines.serving.batching.batcher import Batcher, Counts, Outcome, Room
from pipelines.serving.generation.adoptions import Adopting, Adoptions
from pipelines.serving.generation.engine import Anew, Engine, NotYet
from pipelines.serving.generation.generation import Generation
from pipelines.serving.generation.inbox import Inbox
from pipelines.serving.generation.keeper import Build, EngineKeeper, State
from pipelines.serving.generation.pace import Pace
from pipelines.serving.generation.rebalancing import Placing, Rebalance, Rebalancing
from pipelines.serving.generation.stream import Stream
from pipelines.serving.limits import Limits
from pipelines.serving.refusals import Failed, Refusal, Unavailable, UnknownModel

OnEnd = Callable[[Generation], None]

LOST = (RankLost, DeadlineExceeded, OutOfMemory)
"""Errors after which ranks are lost, or do not work together any more."""

MOST_LOSSES = 3
"""So many losses in a row, without a batch between them, are mended; at the next, generations fail.
"""

_CLOSING = "the server is shutting down"
_UNLOADED = "the adapter of this request is not loaded any more; load it again"
_GLANCE_SECONDS = 0.01
"""Between two looks at ranks that take up an adapter and do nothing else."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Status:
    """The engine's state; generations that run and wait; the part of the cache in use.

    ``counts`` is what batches have done so far. ``waiting_tokens`` are those of the prompts that
    wait and of their longest answers; ``load`` is the part of the room in use, by whichever there
    is less of: cache, or generations that may run.
    """

    state: State
    running: int
    waiting: int
    cache_used: float
    counts: Counts
    waiting_tokens: int
    load: float


@dataclass(frozen=True, slots=True)
class _Flight:
    batch: Batch
    begun: Any
    since: float

    @property
    def generating(self) -> int:
        """Sequences that only go on, by one token."""
        return sum(feed.count == 1 for feed in self.batch.feeds)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of prompts."""
        return sum(feed.count for feed in self.batch.feeds) - self.generating


class Scheduler:
    """Runs generations on an engine with some room; ``build`` makes it, and again if it is lost.

    ``on_end`` is called with every generation that began, complete or not.
    """

    def __init__(
        self,
        build: Build,
        room: Room,
        limits: Limits,
        on_end: OnEnd = lambda generation: None,
        rebalance: Rebalance | None = None,
    ) -> None:
        self._on_end = on_end
        self._limits = limits
        self._keeper = EngineKeeper(build)
        self._batcher = Batcher(room)
        self._pace = Pace(limits.prefill_tokens)
        self._inbox = Inbox(limits.held)
        self._adoptions = Adoptions()
        self._rebalancing = Rebalancing(rebalance)
        self._streams: dict[int, Stream] = {}
        self._flights: deque[_Flight] = deque()
        self._landed = 0.0
        self._losses = 0
        self._step: int | None = None
        self._thread = threading.Thread(target=self._work, name="scheduler", daemon=True)
        self._thread.start()

    @property
    def status(self) -> Status:
        """The present status."""
        batcher, running = self._batcher, self._batcher.running
        cache_used = batcher.pool.used / batcher.pool.blocks
        return Status(
            self._keeper.state,
            running,
            waiting=self._inbox.arrived + batcher.waiting,
            cache_used=cache_used,
            counts=replace(batcher.counts),
            waiting_tokens=self._inbox.arrived_tokens + batcher.waiting_tokens,
            load=max(cache_used, running / batcher.room.running),
        )

    def submit(self, generations: Sequence[Generation]) -> list[Stream]:
        """Queue generations, all or none; call it on the event loop that reads the streams."""
        seconds = self._limits.request_seconds
        streams = [Stream(generation, seconds, self._inbox.leave) for generation in generations]
        self._inbox.put(streams)
        return streams

    def adopt(self, source: AdapterSource) -> Future[None]:
        """Have the ranks take up an adapter, beside what they do; the result: they have it."""
        coming = self._adoptions.come(source)
        self._inbox.nudge()
        return coming

    def release(self, adapter: int) -> Future[None]:
        """Have the ranks forget an adapter when no generation uses it; the result: they do."""
        going = self._adoptions.go(adapter)
        self._inbox.nudge()
        return going

    def has(self, adapter: int) -> bool:
        """Return whether generations may use an adapter."""
        return self._adoptions.holds(adapter)

    def close(self, timeout_seconds: float) -> None:
        """End all generations and the engine."""
        self._inbox.close()
        self._thread.join(timeout_seconds)
        if self._thread.is_alive():
            _LOG.warning("the engine did not end within %g seconds", timeout_seconds)

    def _work(self) -> None:
        while not self._inbox.closed:
            changed = self._receive()
            if self._adoptions.pending:
                self._adapt()
            if self._streams:
                self._turn()
            elif not changed and not self._adoptions.pending:
                self._look()
        self._receive()
        self._adoptions.end(Unavailable(_CLOSING))
        self._fail(list(self._streams), Unavailable(_CLOSING))
        self._keeper.end()

    def _receive(self) -> bool:
        """Take in who came and let go who left; return whether there was anybody."""
        seconds = _GLANCE_SECONDS if self._adoptions.pending else self._limits.idle_seconds
        new, left = self._inbox.take(0.0 if self._streams else seconds)
        for stream in new:
            self._streams[self._batcher.add(stream.generation.job.wanted)] = stream
        gone = {id(stream) for stream in left}
        self._end([number for number, each in self._streams.items() if id(each) in gone])
        self._fail_without({_adapter(stream) for stream in new} - {0})
        return bool(new or left)

    def _fail_without(self, adapters: Iterable[int]) -> None:
        """Fail the generations whose adapter, of these, is not there."""
        for adapter in adapters:
            if not self._adoptions.holds(adapter):
                using = [own for own, each in self._streams.items() if _adapter(each) == adapter]
                self._fail(using, UnknownModel(_UNLOADED, "model", "model_not_found"))

    def _adapt(self) -> None:
        """Go on with the adapters that come and go."""
        if self._keeper.engine is None and not self._rebuild():
            self._adoptions.fail(Unavailable("the engine is down and could not be rebuilt"))
            return
        try:
            used = {_adapter(stream) for stream in self._streams.values()}
            if self._rebalancing.moving:
                self._place_experts()
            else:
                self._adoptions.turn(self._adopting, used)
        except LOST as error:
            self._lost(error)
        except Exception:
            _LOG.exception("an adapter could not be taken up")

    def _turn(self) -> None:
        """Begin what can be begun, and finish the batch that was begun first."""
        if self._keeper.engine is None and not self._rebuild():
            return
        try:
            self._fail_without(self._adoptions.renew(self._adopting))
            if not self._adoptions.pending:
                self._place_experts()
            self._begin(self._keeper.there)
            self._finish(self._keeper.there)
        except NotYet:
            return
        except Anew as news:
            self._restart(news.stages)
        except LOST as error:
            self._lost(error)
        except Exception as error:
            _LOG.exception("a batch failed")
            failed = {feed.sequence for each in self._flights for feed in each.batch.feeds}
            self._fail(failed & self._streams.keys(), _failure(error))
            self._lost(error)

    @property
    def _adopting(self) -> Adopting:
        """The engine; whoever asks for adapters has one that can take them up."""
        return cast("Adopting", self._keeper.there)

    def _place_experts(self) -> None:
        """Measure and move experts; whoever says how has an engine that can."""
        self._rebalancing.turn(cast("Placing", self._keeper.there), time.monotonic())

    def _begin(self, engine: Engine[Any]) -> None:
        while len(self._flights) < self._batcher.room.depth:
            self._follow(engine.weights())
            of_long = self._pace.tokens(self._batcher.generating)
            batch = self._batcher.next(self._limits.prefill_tokens, of_long)
            if batch is None:
                return
            now = time.monotonic()
            self._flights.append(_Flight(batch, engine.begin(batch), now))
            for feed in batch.feeds:
                stream = self._streams[feed.sequence]
                if stream.started is None:
                    stream.started, stream.generation.cached = now, feed.position
                    stream.generation.follow(self._step)

    def _follow(self, step: int | None) -> None:
        """Share nothing that older weights have computed with sequences that come."""
        if step != self._step:
            self._step = step
            self._batcher.renew()

    def _finish(self, engine: Engine[Any]) -> None:
        flight = self._flights[0]
        output = engine.finish(flight.begun)
        self._flights.popleft()
        self._losses = 0
        now = time.monotonic()
        seconds, self._landed = now - max(flight.since, self._landed), now
        self._pace.took(output.seconds or seconds, flight.prompt_tokens, flight.generating)
        ended = [
            outcome.number
            for outcome in self._batcher.take(flight.batch, output)
            if self._deliver(self._streams[outcome.number], outcome, output.step)
        ]
        self._end(ended)

    def _deliver(self, stream: Stream, outcome: Outcome, step: int | None) -> bool:
        """Send what is new to the reader; return whether the generation has ended."""
        generation = stream.generation
        generation.follow(step)
        try:
            generation.accept_scores(outcome.scores)
            delta = None if outcome.token is None else generation.accept(outcome.token)
            if delta is not None:
                stream.put(delta)
        except Exception as error:
            _LOG.exception("a token could not be turned into text")
            stream.fail(_failure(error))
        return generation.finished or stream.cancelled

    def _end(self, numbers: Iterable[int]) -> None:
        """Forget generations; their blocks are free for the next batch."""
        for number in numbers:
            stream = self._streams.pop(number)
            self._batcher.end(number)
            self._inbox.ended()
            try:
                self._on_end(stream.generation)
            except Exception:  # It must not end the only serving thread.
                _LOG.exception("the end of a generation could not be reported")

    def _fail(self, numbers: Iterable[int], refusal: Refusal) -> None:
        numbers = list(numbers)
        for number in numbers:
            self._streams[number].fail(refusal)
        self._end(numbers)

    def _look(self) -> None:
        """Bring an idle engine back if a rank is lost."""
        if self._keeper.engine is None:
            self._rebuild()
        elif not self._keeper.whole():
            _LOG.warning("a rank of the idle engine does not answer")
            self._recover()

    def _lost(self, error: Exception) -> None:
        """Recover from the loss of batches; generations fail where it comes again and again."""
        self._losses += 1
        _LOG.warning("batches are lost: %s", error)
        if self._losses > MOST_LOSSES:
            self._fail(list(self._streams), Unavailable(f"the engine keeps failing: {error}"))
        self._recover()

    def _recover(self) -> None:
        """Mend the engine; generations go on from their tokens, in the same streams."""
        self._flights.clear()
        if not self._keeper.mend():
            self._rebuild()
        self._batcher.restart()
        self._adoptions.restart()
        self._rebalancing.restart()

    def _restart(self, stages: int) -> None:
        """Begin anew with every generation, on ranks that kept nothing."""
        self._flights.clear()
        self._batcher.restart(self._batcher.room.over(stages))

    def _rebuild(self) -> bool:
        """Make a new engine; where that fails, so do the generations."""
        error = self._keeper.rebuild()
        if error is not None:
            reason = f"the engine is down and could not be rebuilt: {error}; try again in a moment"
            self._fail(list(self._streams), Unavailable(reason))
        self._adoptions.restart()
        self._rebalancing.restart()
        return error is None


def _adapter(stream: Stream) -> int:
    adapter = stream.generation.job.adapter
    return 0 if adapter is None else adapter.number


def _failure(error: Exception) -> Failed:
    """Return the refusal that a client gets for an error."""
    if isinstance(error, RaymoeError):
        return Failed(str(error))
    return Failed("the server failed; its log tells more")
