"""Streams that are read as one."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from pipelines.serving.generation.generation import Delta
from pipelines.serving.http.merging import gathered, merged
from pipelines.serving.refusals import Failed


async def said(text: str, every: float, fail: bool = False) -> AsyncIterator[Delta]:
    for n, letter in enumerate(text):
        await asyncio.sleep(every)
        if fail and n == 1:
            raise Failed("broken")
        yield Delta(letter, (), n + 1, "stop" if n + 1 == len(text) else None)


def test_deltas_come_as_they_arrive() -> None:
    async def main() -> list[tuple[int, str]]:
        streams = [said("abc", 0.03), said("xyz", 0.03)]
        return [(number, delta.text) async for number, delta in merged(streams)]

    found = asyncio.run(main())
    assert [text for number, text in found if number == 0] == ["a", "b", "c"]
    assert [text for number, text in found if number == 1] == ["x", "y", "z"]
    assert {number for number, _ in found[:2]} == {0, 1}
    assert {number for number, _ in found[-2:]} == {0, 1}


def test_a_fast_stream_does_not_wait_for_a_slow_one() -> None:
    async def main() -> list[int]:
        return [number async for number, _ in merged([said("ab", 0.2), said("xyz", 0.001)])]

    assert asyncio.run(main()) == [1, 1, 1, 0, 0]


def test_the_first_refusal_ends_all_and_nothing_is_left_running() -> None:
    async def main() -> set[asyncio.Task[None]]:
        with pytest.raises(Failed, match="broken"):
            await gathered([said("abcdef", 5), said("xyz", 0.001, fail=True)])
        return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[return-value]

    assert not asyncio.run(main())


def test_gathered_streams_keep_their_order() -> None:
    async def main() -> list[Delta]:
        return await gathered([said("abc", 0.02), said("xy", 0.001)])

    found = asyncio.run(main())
    assert [delta.text for delta in found] == ["abc", "xy"]
    assert [delta.generated for delta in found] == [3, 2]
