"""The scheduler with an engine whose every step the test allows: order, bounds, losses, ends."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from moe.config.sampling import SampledToken, Sampling
from moe.errors import CheckpointError, DeadlineExceeded, LaunchError, OutOfMemory, RankLost
from moe.nn.draw import Draw
from pipelines.serving.generation.generation import Generation, Job
from pipelines.serving.generation.scheduler import Scheduler
from pipelines.serving.generation.stream import Stream
from pipelines.serving.limits import Limits
from pipelines.serving.refusals import Failed, Overdue, Overloaded, Refusal, Unavailable
from pipelines.serving.text.detokenize import Detokenizer

LIMITS = Limits(waiting=3, request_seconds=20.0, idle_seconds=0.01)
PATIENCE = 10.0


class GatedEngine:
    """Counts upwards from the first token fed; each step waits for a permit or a fault."""

    def __init__(self, open_gate: bool = True) -> None:
        self.permits = threading.Semaphore(10**6 if open_gate else 0)
        self.faults: list[Exception] = []
        self.fed: list[int] = []
        self.held: set[str] = set()
        self.whole = True
        self.ended = threading.Event()

    def infer(self, sequence: str, tokens: tuple[int, ...], draw: Draw) -> SampledToken:
        self.held.add(sequence)
        assert self.permits.acquire(timeout=PATIENCE)
        if self.faults:
            raise self.faults.pop()
        self.fed.append(tokens[-1])
        return SampledToken(tokens[-1] + 1, -0.5)

    def release(self, sequence: str) -> None:
        self.held.discard(sequence)

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
def scheduling(*engines: GatedEngine | Exception, limits: Limits = LIMITS) -> Iterator[Scheduler]:
    scheduler = Scheduler(Builder(*engines), limits)
    try:
        yield scheduler
    finally:
        scheduler.close(PATIENCE)


def generation(start: int, count: int = 3) -> Generation:
    detokenizer = Detokenizer(lambda tokens: "".join(f"{t} " for t in tokens), lambda _: False)
    return Generation(Job((start,), count, Sampling()), detokenizer, 8)


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


def test_a_cancelled_generation_gives_up_its_place() -> None:
    async def main() -> None:
        engine = GatedEngine(open_gate=False)
        with scheduling(engine) as scheduler:
            running, waiting, last = scheduler.submit([generation(n) for n in (10, 20, 30)])
            engine.permits.release()
            assert (await anext(running)).text == "11 "
            waiting.cancel()
            assert scheduler.status.waiting == 1
            running.cancel()
            engine.permits.release(100)
            assert await read(last) == "31 32 33 "
            assert not {20, 21} & set(engine.fed)
            assert engine.fed.count(12) == 0
            await until(lambda: not engine.held)

    asyncio.run(main())


@pytest.mark.parametrize(
    "loss",
    [
        RankLost("rank 1 died"),
        DeadlineExceeded("rank 1 is silent"),
        OutOfMemory("rank 1 failed during inference: CUDA out of memory"),
    ],
)
def test_a_lost_engine_is_rebuilt_and_the_next_is_served(loss: Exception) -> None:
    async def main() -> None:
        old, new = GatedEngine(open_gate=False), GatedEngine()
        with scheduling(old, new) as scheduler:
            first, second = scheduler.submit([generation(10), generation(20)])
            old.permits.release()
            assert (await anext(first)).text == "11 "
            old.faults.append(loss)
            old.permits.release()
            with pytest.raises(Unavailable, match=f"being rebuilt, try again: {loss}"):
                await read(first)
            assert await read(second) == "21 22 23 "
            assert old.ended.is_set()
            assert scheduler.status.state == "serving"

    asyncio.run(main())


def test_an_idle_engine_that_is_not_whole_is_rebuilt() -> None:
    async def main() -> None:
        old, new = GatedEngine(), GatedEngine()
        with scheduling(old, new) as scheduler:
            old.whole = False
            await until(old.ended.is_set)
            (stream,) = scheduler.submit([generation(10)])
            assert await read(stream) == "11 12 13 "
            assert new.fed

    asyncio.run(main())


def test_a_rebuild_that_fails_refuses_what_waits_and_is_tried_again() -> None:
    async def main() -> None:
        old, new = GatedEngine(open_gate=False), GatedEngine()
        patient = replace(LIMITS, idle_seconds=1.0)
        launch = LaunchError("no node has 2 CPUs")
        with scheduling(old, launch, new, limits=patient) as scheduler:
            first, second = scheduler.submit([generation(10), generation(20)])
            old.faults.append(RankLost("rank 0 died"))
            old.permits.release()
            for stream in (first, second):
                with pytest.raises(Unavailable):
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
def test_other_failures_cost_one_request_alone(fault: Exception, message: str) -> None:
    async def main() -> None:
        engine = GatedEngine()
        engine.faults.append(fault)
        with scheduling(engine) as scheduler:
            first, second = scheduler.submit([generation(10), generation(20)])
            with pytest.raises(Failed, match=message):
                await read(first)
            assert await read(second) == "21 22 23 "
            await until(lambda: not engine.held)

    asyncio.run(main())


def test_a_deadline_covers_waiting_and_running() -> None:
    async def main() -> None:
        engine = GatedEngine(open_gate=False)
        with scheduling(engine, limits=replace(LIMITS, request_seconds=0.05)) as scheduler:
            running, waiting = scheduler.submit([generation(10), generation(20)])
            for stream in (running, waiting):
                with pytest.raises(Overdue, match=r"longer than the 0\.05 seconds"):
                    await read(stream)
            assert scheduler.status.waiting == 0
            engine.permits.release(10)
            await until(lambda: scheduler.status.running == 0)
            assert len(engine.fed) == 1

    asyncio.run(main())


def test_closing_ends_everything() -> None:
    async def main() -> None:
        engine = GatedEngine(open_gate=False)
        scheduler = Scheduler(Builder(engine), LIMITS)
        streams = scheduler.submit([generation(10, 10**6), generation(20)])
        await until(lambda: scheduler.status.running == 1)
        closing = asyncio.create_task(asyncio.to_thread(scheduler.close, PATIENCE))
        await until(lambda: scheduler.status.waiting == 0)
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
        Scheduler(Builder(LaunchError("no node")), LIMITS)


def test_an_end_that_cannot_be_reported_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    ended = []

    def report(generation: Generation) -> None:
        ended.append(generation.job.prompt)
        raise OSError("no room for metrics")

    async def main() -> list[str]:
        scheduler = Scheduler(Builder(GatedEngine()), LIMITS, report)
        try:
            streams = scheduler.submit([generation(10), generation(20)])
            return [await read(stream) for stream in streams]
        finally:
            scheduler.close(PATIENCE)

    assert asyncio.run(main()) == ["11 12 13 ", "21 22 23 "]
    assert ended == [(10,), (20,)]
    assert caplog.text.count("the end of a generation could not be reported") == 2
    assert "no room for metrics" in caplog.text
