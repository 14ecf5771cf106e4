"""Which weights an answer came from, where those of a training run change from step to step."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from pipelines.serving.generation.generation import Steps
from pipelines.serving.generation.stream import Stream
from pipelines.serving.protocol.replies import Chat, ChatChunk, Completion

STEP_HEADER = "X-Raymoe-Step"

Named = TypeVar("Named", Chat, ChatChunk, Completion)


def named(reply: Named, steps: Steps | None) -> Named:
    """Return a reply whose fingerprint names model and steps; unchanged without steps."""
    if steps is None:
        return reply
    return reply.model_copy(update={"system_fingerprint": f"{reply.model}/step-{text(steps)}"})


def over(steps: Iterable[Steps | None]) -> Steps | None:
    """Return the oldest and the newest step of several answers."""
    known = [each for each in steps if each is not None]
    return (min(low for low, _ in known), max(high for _, high in known)) if known else None


def headers(streams: Sequence[Stream]) -> dict[str, str]:
    """Return the header that names the steps of all answers to a request so far."""
    steps = over(stream.generation.steps for stream in streams)
    return {} if steps is None else {STEP_HEADER: text(steps)}


def text(steps: Steps) -> str:
    """Return one step as its number, several as the oldest and the newest."""
    return "-".join(map(str, sorted({*steps})))
