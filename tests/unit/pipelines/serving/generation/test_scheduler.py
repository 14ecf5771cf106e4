"""The scheduler with an engine whose every step the test allows: order, bounds, losses, ends."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from actors.commands import Batch, BatchOutput
from actors.engine.serving import Mended
from moe.config.sampling import SampledToken, Sampling
from moe.errors import CheckpointError, DeadlineExceeded, LaunchError, OutOfMemory, RankLost
from pipelines.serving.batching.batcher import Room
from pipelines.serving.generation.generation import Generation, Job
from pipelines.serving.generation.scheduler import Scheduler
from pipelines.serving.generation.stream import Stream
from pipelines.serving.limits import Limits
from pipelines.serving.refusals import Failed, Overdue, Overloaded, Refusal, Unavailable
from pipelines.serving.text.detokenize import Detokenizer

LIMITS = Limits(waiting=3, running=1, request_seconds=20.0, idle_seconds=0.01)
PATIENCE = 10.0


def room(running: int = 1, blocks: int = 64) -> Room:
    return Room(blocks, running, depth=2, ahead=True)


class GatedEngine:
    """Counts upwards from the last token of a sequence; a batch waits for a permit or a fault."""

    def __init__(self, open_gate: bool = True) -> None:
        self.permits = threading.Semaphore(10**6 if open_gate else 0)
        self.faults: list[Exception] = []
        self.fed: list[int] = []
        self.batches: list[Batch] = []
        self.last: dict[int, int] = {}
        self.mends: list[Exception] = []
        self.mended = 0
        self.whole = True
        self.ended = threading.Event()

    def weights(self) -> None:
        return None

    def begin(self, batch: Batch) -> Batch:
        return batch

    def finish(self, flight: Batch) -> BatchOutput:
        assert self.permits.acquire(timeout=PATIENCE)
        if self.faults:
            raise self.faults.pop()
        self.batches.append(flight)
        drawn = {}
        for feed in flight.feeds:
            last = self.last[feed.sequence] if feed.tokens is None else feed.tokens[-1]
            self.fed.append(last)
            self.last[feed.sequence] = last + 1
            if feed.draws:
                drawn[feed.sequence] = SampledToken(last + 1, -0.5)
        return BatchOutput(flight.number, drawn)

    def mend(self) -> Mended:
        if self.mends:
            raise self.mends.pop()
        self.mended += 1
        self.whole = True
        return Mended((1,), 0.1)

    def healthy(self) -> bool:
        return self.whole

    def shutdown(self) -> None:
        self.ended.set()


class Builder:
    """Hands out engines in order; an exception in the list is raised."""

    def __init__(self, *engines: GatedEngine | Exception) -> None:
        self.left = list(engines)
        self.calls = 0

    def __call__(self) -> GatedEngine:
        self.calls += 1
        made = self.left.pop(0)
        if isinstance(made, Exception):
            raise made
        return made


@contextmanager
def scheduling(
    *engines: GatedEngine | Exception, limits: Limits = LIMITS, running: int = 1
) -> Iterator[Scheduler]:
    limits = replace(limits, running=running)
    scheduler = Scheduler(Builder(*engines), room(running), limits)
    try:
        yield scheduler
    finally:
        scheduler.close(PATIENCE)


def generation(start: int, count: int = 3) -> Generation:
    detokenizer = Detokenizer(lambda tokens: "".join(f"{t} " for t in tokens), lambda _: False)
    return Generation(Job((start,), count, Sampling()), detokenizer)


async def read(stream: Stream) -> str:
    return "".join([delta.text async for delta in stream])


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():
            await asyncio.sleep(0.001)


def test_first_come_first_served() -> None:
    async def main() -> list[str]:
        with scheduling(GatedEngine()) as scheduler:
            streams = scheduler.submit([generation(start) for start in (10, 20, 30)])
            return [await read(stream) for stream in streams]

    assert asyncio.run(main()) == ["11 12 13 ", "21 22 23 ", "31 32 33 "]


def test_more_than_may_wait_are_refused_all_or_none() -> None:
    async def main() -> None:
        engine = GatedEngine(open_gate=False)
        with scheduling(engine) as scheduler:
            first = scheduler.submit([generation(10)])
            await until(lambda: scheduler.status.running == 1)
            with pytest.raises(Overloaded, match=r"1 generations .* holds 4, so 4 more do not fit"):
                scheduler.submit([generation(20)] * 4)
            rest = scheduler.submit([generation(20), generation(30), generation(40)])
            with pytest.raises(Overloaded, match="4 generations are queued or running"):
                scheduler.submit([generation(50)])
            engine.permits.release(100)
            assert [await read(stream) for stream in first + rest][-1] == "41 42 43 "
            await until(lambda: scheduler.status.running == 0)
            assert scheduler.submit([generation(60)])

    asyncio.run(main())


def test_generations_run_together() -> None:
    async def main() -> list[str]:
        engine = GatedEngine(open_gate=False)
        with scheduling(engine, running=3) as scheduler:
            streams = scheduler.submit([generation(start) for start in (10, 20, 30)])
            engine.permits.release(100)
            texts = [await read(stream) for stream in streams]
            assert len(engine.batches[0].feeds) == 3
            return texts

    assert asyncio.run(main()) == ["11 12 13 ", "21 22 23 ", "31 32 33 "]


def test_a_cancelled_generation_gives_up_its_place() -> None:
    async def main() -> None:
        engine = GatedEngine(open_gate=False)
        with scheduling(engine) as scheduler:
            running, waiting, last = scheduler.submit([generation(n) for n in (10, 20, 30)])
            engine.permits.release()
            assert (await anext(running)).text == "11 "
            waiting.cancel()
            running.cancel()
            engine.permits.release(100)
            assert await read(last) == "31 32 33 "
            assert not {20, 21} & set(engine.fed)
            await until(lambda: scheduler.status.cache_used == 0)

    asyncio.run(main())


LOSSES = [
    RankLost("rank 1 died"),
    DeadlineExceeded("rank 1 is silent"),
    OutOfMemory("rank 1 failed during inference: CUDA out of memory"),
]


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_costs_no_generation(loss: Exception) -> None:
    async def main() -> None:
        engine = GatedEngine(open_gate=False)
        with scheduling(engine, running=2) as scheduler:
            first, second = scheduler.submit([generation(10), generation(20)])
            engine.permits.release()
            assert (await anext(first)).text == "11 "
            engine.faults.append(loss)
            engine.permits.release(100)
            assert await read(first) == "12 13 "
            assert await read(second) == "21 22 23 "
            assert engine.mended == 1
            assert not engine.ended.is_set()
            assert scheduler.status.state == "serving"

    asyncio.run(main())


@pytest.mark.parametrize("loss", LOSSES)
def test_an_engine_that_cannot_be_mended_is_rebuilt(loss: Exception) -> None:
    async def main() -> None:
        old, new = GatedEngine(open_gate=False), GatedEngine()
        old.mends.append(LaunchError("no room for a new rank"))
        with scheduling(old, new) as scheduler:
            first, second = scheduler.submit([generation(10), generation(20)])
            old.permits.release()
            assert (await anext(first)).text == "11 "
            old.faults.append(loss)
            old.permits.release()
            assert await read(first) == "12 13 "
            assert await read(second) == "21 22 23 "
            assert old.ended.is_set()
            assert new.fed[0] == 11

    asyncio.run(main())


def test_an_engine_that_keeps_failing_fails_its_generations() -> None:
    async def main() -> None:
        engine = GatedEngine()
        engine.faults += [RankLost("again")] * 10
        with scheduling(engine) as scheduler:
            (stream,) = scheduler.submit([generation(10)])
            with pytest.raises(Unavailable, match="keeps failing: again"):
                await read(stream)
            engine.faults.clear()
            (stream,) = scheduler.submit([generation(20)])
            assert await read(stream) == "21 22 23 "

    asyncio.run(main())


def test_an_idle_engine_that_is_not_whole_is_mended() -> None:
    async def main() -> None:
        engine = GatedEngine()
        with scheduling(engine) as scheduler:
            engine.whole = False
            await until(lambda: engine.mended == 1)
            (stream,) = scheduler.submit([generation(10)])
            assert await read(stream) == "11 12 13 "

    asyncio.run(main())


def test_what_is_mended_while_idle_is_no_loss_of_a_batch() -> None:
    async def main() -> None:
        engine = GatedEngine()
        with scheduling(engine) as scheduler:
            for mended in range(1, 6):
                engine.whole = False
                await until(lambda mended=mended: engine.mended == mended)
            engine.faults.append(RankLost("once"))
            (stream,) = scheduler.submit([generation(10)])
            assert await read(stream) == "11 12 13 "

    asyncio.run(main())


def test_a_rebuild_that_fails_refuses_what_waits_and_is_tried_again() -> None:
    async def main() -> None:
        old, new = GatedEngine(open_gate=False), GatedEngine()
        patient = replace(LIMITS, idle_seconds=1.0)
        launch = LaunchError("no node has 2 CPUs")
        with scheduling(old, launch, new, limits=patient) as scheduler:
            first, second = scheduler.submit([generation(10), generation(20)])
            old.faults.append(RankLost("rank 0 died"))
            old.mends.append(LaunchError("no room for a new rank"))
            old.permits.release()
            for stream in (first, second):
                with pytest.raises(
                    Unavailable, match="could not be rebuilt: no node has 2 CPUs; try"
                ):
                    await read(stream)
            assert scheduler.status.state == "failed"
            (third,) = scheduler.submit([generation(30)])
            assert await read(third) == "31 32 33 "
            assert scheduler.status.state == "serving"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (CheckpointError("the logits are not numbers"), "the logits are not numbers"),
        (ZeroDivisionError("secret"), "its log tells more"),
    ],
)
def test_other_failures_cost_the_generations_of_the_batch(fault: Exception, message: str) -> None:
    async def main() -> None:
        engine = GatedEngine()
        engine.faults.append(fault)
        with scheduling(engine) as scheduler:
            first, second = scheduler.submit([generation(10), generation(20)])
            with pytest.raises(Failed, match=message):
                await read(first)
            assert await read(second) == "21 22 23 "
            await until(lambda: scheduler.status.cache_used == 0)

    asyncio.run(main())


def test_a_deadline_covers_waiting_and_running() -> None:
    async def main() -> None:
        engine = GatedEngine(open_gate=False)
        with scheduling(engine, limits=replace(LIMITS, request_seconds=0.05)) as scheduler:
            running, waiting = scheduler.submit([generation(10), generation(20)])
            for stream in (running, waiting):
                with pytest.raises(Overdue, match=r"longer than the 0\.05 seconds"):
                    await read(stream)
            engine.permits.release(10)
            await until(lambda: scheduler.status.running + scheduler.status.waiting == 0)
            assert len(engine.fed) <= 2

    asyncio.run(main())


def test_closing_ends_everything() -> None:
    async def main() -> None:
        engine = GatedEngine(open_gate=False)
        scheduler = Scheduler(Builder(engine), room(), LIMITS)
        streams = scheduler.submit([generation(10, 10**6), generation(20)])
        await until(lambda: scheduler.status.running == 1)
        closing = asyncio.create_task(asyncio.to_thread(scheduler.close, PATIENCE))
        await asyncio.sleep(0.1)
        engine.permits.release(2)
        await closing
        assert engine.ended.is_set()
        for stream in streams:
            with pytest.raises(Refusal, match="shutting down"):
                await read(stream)
        with pytest.raises(Unavailable, match="shutting down"):
            scheduler.submit([generation(30)])

    asyncio.run(main())


def test_a_reader_that_is_gone_does_not_stop_the_others() -> None:
    with scheduling(engine := GatedEngine(open_gate=False)) as scheduler:

        async def leave() -> None:
            scheduler.submit([generation(10, 1000)])

        async def stay() -> str:
            (stream,) = scheduler.submit([generation(20)])
            engine.permits.release(2000)
            return await read(stream)

        asyncio.run(leave())
        assert asyncio.run(stay()) == "21 22 23 "


def test_a_first_build_that_fails_is_the_callers() -> None:
    with pytest.raises(LaunchError, match="no node"):
        Scheduler(Builder(LaunchError("no node")), room(), LIMITS)


def test_an_end_that_cannot_be_reported_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    ended = []

    def report(generation: Generation) -> None:
        ended.append(generation.job.prompt)
        raise OSError("no room for metrics")

    async def main() -> list[str]:
        scheduler = Scheduler(Builder(GatedEngine()), room(), LIMITS, report)
        try:
            streams = scheduler.submit([generation(10), generation(20)])
            return [await read(stream) for stream in streams]
        finally:
            scheduler.close(PATIENCE)

    assert asyncio.run(main()) == ["11 12 13 ", "21 22 23 "]
    assert ended == [(10,), (20,)]
    assert caplog.text.count("the end of a generation could not be reported") == 2
    assert "no room for metrics" in caplog.text
