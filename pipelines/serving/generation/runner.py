"""Runs one generation on an engine and sends its text to the reader."""

import uuid

from moe.errors import DeadlineExceeded, OutOfMemory, RankLost, RaymoeError
from pipelines.serving.generation.generation import Engine, run
from pipelines.serving.generation.stream import Stream
from pipelines.serving.refusals import Failed

LOST = (RankLost, DeadlineExceeded, OutOfMemory)
"""Errors after which the engine, with every sequence that it held, is lost."""


def generate(stream: Stream, engine: Engine) -> None:
    """Run one generation to its end, or until its reader is gone; then release its sequence."""
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
    """Return the refusal that a client gets for an error."""
    if isinstance(error, RaymoeError):
        return Failed(str(error))
    return Failed("the server failed; its log tells more")
