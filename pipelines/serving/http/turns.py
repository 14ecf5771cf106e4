"""Generated text as the answers of ``/v1/responses``: complete, or as a stream of events."""

import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

from pipelines.serving.generation.generation import Delta
from pipelines.serving.generation.stream import Stream
from pipelines.serving.http.logprobs import chat_logprobs
from pipelines.serving.http.watching import watched
from pipelines.serving.protocol.replies import ChosenLogprob
from pipelines.serving.protocol.turn_replies import (
    CallOutput,
    Incomplete,
    InputDetails,
    ItemStatus,
    MessageOutput,
    Output,
    TextPart,
    Turn,
    TurnEvent,
    TurnUsage,
)
from pipelines.serving.protocol.turns import LOGPROBS, TurnRequest
from pipelines.serving.telemetry import Telemetry
from pipelines.serving.text.text import Text
from pipelines.serving.tools.calls import Call
from pipelines.serving.tools.reader import Reader


class TurnAnswer:
    """Answers ``/v1/responses``; ``reader`` finds the calls of the answer."""

    def __init__(
        self,
        request: TurnRequest,
        text: Text,
        stream: Stream,
        telemetry: Telemetry,
        reader: Reader,
    ) -> None:
        self.streams = (stream,)
        self._id = f"resp_{uuid.uuid4().hex}"
        self._created = time.time()
        self._request = request
        self._text = text
        self._reader = reader
        self._deltas = watched(stream, telemetry)
        self._outputs = _Outputs()

    async def whole(self) -> Turn:
        """Return the answer."""
        async for delta in self._deltas:
            for _ in self._changes(delta):
                pass
        return self._turn(delta)

    async def pieces(self) -> AsyncIterator[TurnEvent]:
        """Yield what happens to the answer and its items, until it is complete."""
        number, begun = 0, False
        async for delta in self._deltas:
            for change in self._changes(delta) if begun else self._first(delta):
                yield TurnEvent(sequence_number=number, **change)
                number += 1
            begun = True
        last = self._turn(delta)
        yield TurnEvent(type=f"response.{last.status}", sequence_number=number, response=last)

    def _first(self, delta: Delta) -> Iterator[dict[str, Any]]:
        """Yield the events of the first delta, after those of the new answer."""
        for kind in ("response.created", "response.in_progress"):
            yield {"type": kind, "response": self._turn(None)}
        yield from self._changes(delta)

    def _changes(self, delta: Delta) -> Iterator[dict[str, Any]]:
        """Add a delta to the items; yield the events of that."""
        logprobs = self._logprobs(delta)
        pieces = self._reader.push(delta.text)
        if delta.finish is not None:
            pieces += self._reader.finish()
        for piece in pieces:
            if isinstance(piece, Call):
                yield from self._outputs.close("completed")
                yield from self._outputs.call(piece)
            else:
                yield from self._outputs.say(piece, logprobs)
                logprobs = []
        if delta.finish is not None:
            yield from self._outputs.close(_status(delta))

    def _logprobs(self, delta: Delta) -> list[ChosenLogprob]:
        if LOGPROBS not in self._request.include:
            return []
        return chat_logprobs(self._text, delta.tokens).content

    def _turn(self, last: Delta | None) -> Turn:
        """Return the answer as it is after its last delta; None: before its first."""
        asked = self._request
        cut = last is not None and last.finish == "length"
        return Turn(
            id=self._id,
            created_at=self._created,
            status="in_progress" if last is None else _status(last),
            model=asked.model,
            output=list(self._outputs.items),
            incomplete_details=Incomplete() if cut else None,
            instructions=asked.instructions,
            max_output_tokens=asked.max_output_tokens,
            parallel_tool_calls=asked.parallel_tool_calls,
            temperature=asked.temperature,
            top_p=asked.top_p,
            tool_choice=asked.model_dump(include={"tool_choice"})["tool_choice"],
            tools=[tool.model_dump() for tool in asked.tools],
            usage=None if last is None else self._usage(last),
        )

    def _usage(self, last: Delta) -> TurnUsage:
        generation = self.streams[0].generation
        prompt = len(generation.job.prompt)
        return TurnUsage(
            input_tokens=prompt,
            input_tokens_details=InputDetails(cached_tokens=generation.cached),
            output_tokens=last.generated,
            total_tokens=prompt + last.generated,
        )


class _Outputs:
    """The items of an answer; every change yields the fields of its events."""

    def __init__(self) -> None:
        self.items: list[Output] = []
        self._open = ""
        self._said = ""
        self._logprobs: list[ChosenLogprob] = []

    def say(self, text: str, logprobs: list[ChosenLogprob]) -> Iterator[dict[str, Any]]:
        """Add text to the open message, or to a new one."""
        if not self._open:
            yield from self._begin()
        self._said += text
        self._logprobs += logprobs
        place = self._place("response.output_text.delta")
        yield place | {"delta": text, "logprobs": logprobs}

    def close(self, status: ItemStatus) -> Iterator[dict[str, Any]]:
        """End the open message, if there is one."""
        if not self._open:
            return
        part = TextPart(text=self._said, logprobs=self._logprobs)
        done = self._place("response.output_text.done")
        yield done | {"text": self._said, "logprobs": self._logprobs}
        yield self._place("response.content_part.done") | {"part": part}
        item = MessageOutput(id=self._open, status=status, content=[part])
        self.items.append(item)
        yield self._item("response.output_item.done", item, len(self.items) - 1)
        self._open, self._said, self._logprobs = "", "", []

    def call(self, call: Call) -> Iterator[dict[str, Any]]:
        """Add a whole call."""
        number = f"fc_{uuid.uuid4().hex}"
        begun = CallOutput(
            id=number, call_id=call.id, name=call.name, arguments="", status="in_progress"
        )
        done = begun.model_copy(update={"arguments": call.arguments, "status": "completed"})
        index = len(self.items)
        self.items.append(done)
        place = {"item_id": number, "output_index": index}
        kind = "response.function_call_arguments"
        yield self._item("response.output_item.added", begun, index)
        yield place | {"type": f"{kind}.delta", "delta": call.arguments}
        yield place | {"type": f"{kind}.done", "name": call.name, "arguments": call.arguments}
        yield self._item("response.output_item.done", done, index)

    def _begin(self) -> Iterator[dict[str, Any]]:
        self._open = f"msg_{uuid.uuid4().hex}"
        item = MessageOutput(id=self._open, status="in_progress", content=[])
        yield self._item("response.output_item.added", item, len(self.items))
        yield self._place("response.content_part.added") | {"part": TextPart(text="")}

    def _place(self, kind: str) -> dict[str, Any]:
        """Return the fields of an event within the open message."""
        index = len(self.items)
        return {"type": kind, "item_id": self._open, "output_index": index, "content_index": 0}

    def _item(self, kind: str, item: Output, index: int) -> dict[str, Any]:
        return {"type": kind, "item": item, "output_index": index}


def _status(delta: Delta) -> ItemStatus:
    return "incomplete" if delta.finish == "length" else "completed"
