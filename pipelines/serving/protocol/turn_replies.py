"""The typed replies of ``/v1/responses``."""

from typing import Any, Literal

from pydantic import Field

from pipelines.serving.protocol.replies import ChosenLogprob, Reply

ItemStatus = Literal["in_progress", "completed", "incomplete"]


class TextPart(Reply):
    """The text of a message."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any] = Field(default_factory=list)
    logprobs: list[ChosenLogprob] = Field(default_factory=list)


class MessageOutput(Reply):
    """A message of the model."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    status: ItemStatus
    content: list[TextPart]


class CallOutput(Reply):
    """A call of a function; its result refers to ``call_id``."""

    id: str
    type: Literal["function_call"] = "function_call"
    call_id: str
    name: str
    arguments: str
    status: ItemStatus


Output = MessageOutput | CallOutput


class InputDetails(Reply):
    """Prompt tokens that a cache had; how many it took is not told."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputDetails(Reply):
    """Tokens of thought; they are not told apart."""

    reasoning_tokens: int = 0


class TurnUsage(Reply):
    """Tokens of prompt and answer."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails = OutputDetails()
    total_tokens: int


class Incomplete(Reply):
    """Why an answer was cut."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class Turn(Reply):
    """The reply of ``/v1/responses``."""

    id: str
    object: Literal["response"] = "response"
    created_at: float
    status: ItemStatus
    model: str
    output: list[Output]
    error: None = None
    incomplete_details: Incomplete | None = None
    instructions: str | None
    max_output_tokens: int | None
    parallel_tool_calls: bool
    previous_response_id: None = None
    store: Literal[False] = False
    temperature: float
    top_p: float
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    truncation: Literal["disabled"] = "disabled"
    usage: TurnUsage | None = None

    def json_text(self) -> str:
        """Return the object as one line of JSON, with every field."""
        return self.model_dump_json()


class TurnEvent(Reply):
    """One event of a streamed answer; which fields it has depends on its type."""

    type: str
    sequence_number: int
    response: Turn | None = None
    output_index: int | None = None
    content_index: int | None = None
    item_id: str | None = None
    item: Output | None = None
    part: TextPart | None = None
    delta: str | None = None
    text: str | None = None
    name: str | None = None
    arguments: str | None = None
    logprobs: list[ChosenLogprob] | None = None

    @property
    def event_name(self) -> str:
        """The name of the event on the wire."""
        return self.type

    def json_text(self) -> str:
        """Return the object as one line of JSON; objects within it have every field."""
        unset = type(self).model_fields.keys() - self.model_fields_set
        return self.model_dump_json(exclude=unset)
