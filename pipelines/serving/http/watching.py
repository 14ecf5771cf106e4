"""Measures streams as their readers see them."""

import time
from collections.abc import AsyncIterator

from pipelines.serving.generation.generation import Delta
from pipelines.serving.generation.stream import Stream
from pipelines.serving.refusals import Refusal
from pipelines.serving.telemetry import Reason, Telemetry


async def watched(stream: Stream, telemetry: Telemetry) -> AsyncIterator[Delta]:
    """Yield the deltas of a stream; tell what they took, and how the stream ended."""
    began = last = time.monotonic()
    seen = 0
    reason: Reason = "abort"
    try:
        async for delta in stream:
            now = time.monotonic()
            if not seen:
                telemetry.first_token(now - began)
                telemetry.queued((stream.started or now) - stream.arrived)
            else:
                telemetry.tokens(delta.generated - seen, now - last)
            seen, last = delta.generated, now
            reason = delta.finish or reason
            yield delta
    except Refusal:
        reason = "error"
        raise
    finally:
        prompt = len(stream.generation.job.prompt)
        telemetry.ended(reason, prompt, seen, time.monotonic() - began)
        if stream.generation.job.adapter is not None:
            telemetry.adapter_ended(stream.generation.job.adapter.name)
