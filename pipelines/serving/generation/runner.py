"""One generation on an engine, from its first token to its end, with its text to its reader."""

import uuid

from moe.errors import DeadlineExceeded, RankLost, RaymoeError
from pipelines.serving.generation.generation import Engine, run
from pipelines.serving.generation.stream import Stream
from pipelines.serving.refusals import Failed

LOST = (RankLost, DeadlineExceeded)
"""Errors after which the engine as a whole is gone, and with it every sequence it held."""


def generate(stream: Stream, engine: Engine) -> None:
    """Run one generation to its end, or until nobody reads it; then the engine forgets it."""
    sequence = uuid.uuid4().hex
    try:
        for delta in run(stream.generation, engine, sequence):
            if stream.cancelled:
                break
            if delta is not None:
                stream.put(delta)
    except LOST:
        raise
    except Exception:
        engine.release(sequence)
        raise
    engine.release(sequence)


def failure(error: Exception) -> Failed:
    """Return what a client may know of an error that cost its request."""
    if isinstance(error, RaymoeError):
        return Failed(str(error))
    return Failed("the server failed; its log tells more")
