"""Several streams as one, in the order in which their deltas come."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from pipelines.serving.generation.generation import Delta


async def merged(streams: Sequence[AsyncIterator[Delta]]) -> AsyncIterator[tuple[int, Delta]]:
    """Yield every delta with the number of its stream; the first refusal ends all."""
    if len(streams) == 1:
        async for only in streams[0]:
            yield 0, only
        return
    steps = {n: asyncio.create_task(_next(stream)) for n, stream in enumerate(streams)}
    try:
        while steps:
            await asyncio.wait(steps.values(), return_when=asyncio.FIRST_COMPLETED)
            for number in [n for n, step in steps.items() if step.done()]:
                delta = steps.pop(number).result()
                if delta is not None:
                    steps[number] = asyncio.create_task(_next(streams[number]))
                    yield number, delta
    finally:
        for step in steps.values():
            step.cancel()
        await asyncio.gather(*steps.values(), return_exceptions=True)


async def gathered(streams: Sequence[AsyncIterator[Delta]]) -> list[Delta]:
    """Return all deltas of each stream as one."""
    found: list[list[Delta]] = [[] for _ in streams]
    async for number, delta in merged(streams):
        found[number].append(delta)
    return [joined(deltas) for deltas in found]


def joined(deltas: Sequence[Delta]) -> Delta:
    """Return deltas of one stream as one."""
    return Delta(
        text="".join(delta.text for delta in deltas),
        tokens=tuple(token for delta in deltas for token in delta.tokens),
        generated=deltas[-1].generated,
        finish=deltas[-1].finish,
        steps=deltas[-1].steps,
    )


async def _next(stream: AsyncIterator[Delta]) -> Delta | None:
    return await anext(stream, None)
