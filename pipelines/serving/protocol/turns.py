"""The typed requests of ``/v1/responses``, which ask for the same as a chat in another form."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from pipelines.serving.protocol.fields import Content, UnicodeText
from pipelines.serving.protocol.options import Loose, fault
from pipelines.serving.protocol.requests import (
    MOST_CHAT_LOGPROBS,
    MOST_TOOLS,
    ChatRequest,
    SamplingOptions,
)
from pipelines.serving.protocol.tools import Name

LOGPROBS = "message.output_text.logprobs"
"""What ``include`` says to get log-probabilities."""


class MessageItem(Loose):
    """A message of the conversation so far."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Content


class CallItem(Loose):
    """A call that the model made."""

    type: Literal["function_call"]
    call_id: UnicodeText
    name: Name
    arguments: UnicodeText


class ResultItem(Loose):
    """What a called function gave."""

    type: Literal["function_call_output"]
    call_id: UnicodeText
    output: Content


class ReasoningItem(Loose):
    """What a model thought before; it is not read."""

    type: Literal["reasoning"]


def _kind(item: Any) -> str:
    """Return the kind of an item; clients leave it out for messages."""
    kind = item.get("type", "message") if isinstance(item, dict) else getattr(item, "type", "")
    return kind if isinstance(kind, str) else ""


def _items(value: Any) -> Any:
    """Read a text as the user's message."""
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[ResultItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")],
    Discriminator(
        _kind,
        custom_error_type="raymoe",
        custom_error_message="expected an item of type message, function_call, "
        "function_call_output or reasoning; nothing is kept here that others could refer to",
    ),
]


class FunctionTool(Loose):
    """A function that may be called."""

    type: Literal["function"]
    name: Name
    description: UnicodeText = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    strict: bool = False


class NamedTool(Loose):
    """A function that must be called."""

    type: Literal["function"]
    name: Name


class TextFormat(Loose):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: UnicodeText = ""
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool = False


class TextOptions(Loose):
    """Options of the answer's text."""

    format: TextFormat = TextFormat()


class Reasoning(Loose):
    """How long the model should think, as far as its template knows of it."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None


class TurnRequest(SamplingOptions):
    """The body of ``/v1/responses``; the whole conversation is in it, since nothing is kept."""

    model: str
    input: Annotated[list[Item], Field(min_length=1), BeforeValidator(_items)]
    instructions: UnicodeText | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    tools: list[FunctionTool] = Field(default_factory=list, max_length=MOST_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | NamedTool = "auto"
    parallel_tool_calls: bool = True
    text: TextOptions = TextOptions()
    reasoning: Reasoning = Reasoning()
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] = Field(
        default_factory=list
    )
    top_logprobs: int = Field(default=0, ge=0, le=MOST_CHAT_LOGPROBS)
    truncation: Literal["disabled"] = "disabled"
    background: Literal[False] = False
    stream: bool = False
    stream_options: Mapping[str, bool] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _makes_a_chat(self) -> "TurnRequest":
        try:
            self.chat()
        except ValidationError as error:
            found = error.errors()[0]
            place = found.get("ctx", {}).get("param") or str(found["loc"][0])
            raise fault(found["msg"], place) from None
        return self

    def chat(self) -> ChatRequest:
        """Return the chat that asks for the same."""
        said: list[dict[str, Any]] = []
        if self.instructions is not None:
            said.append({"role": "system", "content": self.instructions})
        said += messages_of(self.input)
        own = self.model_dump(include=set(SamplingOptions.model_fields), exclude_unset=True)
        wanted = {
            "model": self.model,
            "messages": said,
            "max_completion_tokens": self.max_output_tokens,
            "tools": [_tool(tool) for tool in self.tools],
            "tool_choice": _choice(self.tool_choice),
            "parallel_tool_calls": self.parallel_tool_calls,
            "response_format": _format(self.text.format),
            "reasoning_effort": self.reasoning.effort,
            "logprobs": LOGPROBS in self.include,
            "top_logprobs": self.top_logprobs if LOGPROBS in self.include else None,
        }
        return ChatRequest.model_validate(own | wanted)


def messages_of(items: Sequence[Item]) -> list[dict[str, Any]]:
    """Return items as messages; calls that follow each other are one message."""
    messages: list[dict[str, Any]] = []
    for item in items:
        if isinstance(item, CallItem):
            if not (messages and messages[-1]["role"] == "assistant"):
                messages.append({"role": "assistant", "content": None})
            messages[-1].setdefault("tool_calls", []).append(_call(item))
        elif isinstance(item, ResultItem):
            messages.append({"role": "tool", "tool_call_id": item.call_id, "content": item.output})
        elif isinstance(item, MessageItem):
            messages.append({"role": item.role, "content": item.content})
    return messages


def _call(item: CallItem) -> dict[str, Any]:
    function = {"name": item.name, "arguments": item.arguments}
    return {"id": item.call_id, "type": "function", "function": function}


def _tool(tool: FunctionTool) -> dict[str, Any]:
    return {"type": "function", "function": tool.model_dump(exclude={"type"}, exclude_unset=True)}


def _choice(choice: str | NamedTool) -> str | dict[str, Any]:
    if isinstance(choice, str):
        return choice
    return {"type": "function", "function": {"name": choice.name}}


def _format(text: TextFormat) -> dict[str, Any]:
    if text.type != "json_schema":
        return {"type": text.type}
    named = {"name": text.name, "schema": text.schema_, "strict": text.strict}
    return {"type": text.type, "json_schema": named}
