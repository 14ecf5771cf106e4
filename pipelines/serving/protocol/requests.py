"""The typed OpenAI requests of this server.

An unknown option, or an unsupported option that would change the answer, is refused by name.
Options for bookkeeping are accepted and ignored. ``null`` means: not given.
"""

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

IGNORED = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
"""Options that do not change the answer."""

WITHOUT_EFFECT: Mapping[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "n": (1,),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
}
"""Unsupported options, with the values that are accepted because they ask for the default."""

MAX_STOPS = 4
MAX_COMPLETION_LOGPROBS = 5
MAX_CHAT_LOGPROBS = 20


def _fault(message: str, param: str | None = None) -> PydanticCustomError:
    context = {"text": message}
    if param is not None:
        context["param"] = param.encode("ascii", "backslashreplace").decode()
    return PydanticCustomError("raymoe", "{text}", context)


def _whole_text(text: str) -> str:
    """Refuse half of a surrogate pair, which JSON can express but no tokenizer can read."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _fault(f"character {error.start} is half of a surrogate pair") from None
    return text


def _is_tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


def _prompts(value: Any) -> Any:
    """Convert the four forms of a prompt to one: a list of texts or of token lists."""
    prompts = [value] if isinstance(value, str) or _is_tokens(value) else value
    if isinstance(prompts, list) and prompts:
        if all(isinstance(prompt, str) for prompt in prompts):
            return [_whole_text(prompt) for prompt in prompts]
        if all(_is_tokens(prompt) for prompt in prompts):
            return prompts
    raise _fault(
        "expected a text, a list of texts, a list of token numbers, or a list of "
        "lists of token numbers"
    )


def _stops(value: Any) -> Any:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise _fault("expected a text or a list of texts")
    if len(stops) > MAX_STOPS or not all(stops):
        raise _fault(f"expected at most {MAX_STOPS} texts, none of them empty")
    return stops


def _content(value: Any) -> Any:
    """Join the text parts of a message."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not all(isinstance(part, dict) for part in value):
        raise _fault("expected a text or a list of text parts")
    for part in value:
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type")
            raise _fault(f"a part of type {kind!r} is not supported; only text is read here")
    return "".join(part["text"] for part in value)


UnicodeText = Annotated[str, AfterValidator(_whole_text)]
Prompts = Annotated[list[str] | list[list[int]], BeforeValidator(_prompts)]
Stops = Annotated[list[str], BeforeValidator(_stops)]
Content = Annotated[UnicodeText, BeforeValidator(_content)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class Options(BaseModel):
    """A JSON object whose keys are all known."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _only_understood(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        given = {key: value for key, value in data.items() if value is not None}
        for key in sorted(given.keys() - cls.model_fields.keys()):
            _check_option(key, given.pop(key), list(cls.model_fields))
        return given


class StreamOptions(Options):
    """``include_obfuscation`` pads OpenAI's own stream; this server pads nothing."""

    include_usage: bool = False
    include_obfuscation: bool = False


class GenerationOptions(Options):
    """What completions and chats have in common."""

    model: str
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, ge=0, le=1)
    seed: Seed | None = None
    stop: Stops = []
    stream: bool = False
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> "GenerationOptions":
        if self.stream_options is not None and not self.stream:
            raise _fault("only allowed together with stream = true", "stream_options")
        return self

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the token counts."""
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(GenerationOptions):
    """The body of ``/v1/completions``."""

    prompt: Prompts
    logprobs: int | None = Field(default=None, ge=0, le=MAX_COMPLETION_LOGPROBS)


class ChatMessage(Options):
    """One message; ``developer`` is OpenAI's newer name for ``system``."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    name: UnicodeText | None = None

    def as_template_input(self) -> dict[str, str]:
        """Return the message in the form that chat templates read."""
        role = "system" if self.role == "developer" else self.role
        named = {} if self.name is None else {"name": self.name}
        return {"role": role, "content": self.content} | named


class ChatRequest(GenerationOptions):
    """The body of ``/v1/chat/completions``."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_CHAT_LOGPROBS)

    @model_validator(mode="after")
    def _options_agree(self) -> "ChatRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise _fault("only allowed together with logprobs = true", "top_logprobs")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise _fault("given together with max_completion_tokens; give one", "max_tokens")
        return self

    @property
    def limit(self) -> int | None:
        """The requested maximum length of the answer, under either of its two names."""
        return self.max_tokens if self.max_tokens is not None else self.max_completion_tokens


def _check_option(key: str, value: Any, known: list[str]) -> None:
    """Raise unless an option that is not a field may be ignored."""
    if key in IGNORED:
        return
    if key not in WITHOUT_EFFECT:
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {close[0]}?" if close else "leave it out"
        raise _fault(f"this option is not supported; {hint}", key)
    allowed = WITHOUT_EFFECT[key]
    if not any(
        value == one and isinstance(value, bool) == isinstance(one, bool) for one in allowed
    ):
        shown = " or ".join(repr(one) for one in allowed)
        raise _fault(f"{value!r} is not supported; leave it out or give {shown}", key)
