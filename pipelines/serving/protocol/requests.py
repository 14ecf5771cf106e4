"""The typed OpenAI requests of this server."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipelines.serving.protocol.fields import (
    Biases,
    Prompts,
    Seed,
    Stops,
    StopTokens,
    UnicodeText,
)
from pipelines.serving.protocol.formats import Form, ResponseFormat, StructuredOutputs
from pipelines.serving.protocol.messages import ChatMessage
from pipelines.serving.protocol.options import Options, fault
from pipelines.serving.protocol.tools import NamedTool, Tool, ToolChoice

MOST_COMPLETION_LOGPROBS = 20
MOST_CHAT_LOGPROBS = 20
MOST_CHOICES = 128
MOST_TOOLS = 128

Penalty = Annotated[float, Field(ge=-2, le=2)]


class StreamOptions(Options):
    """``continuous_usage_stats`` has the token counts so far in every event.

    ``include_obfuscation`` pads OpenAI's own stream; this server pads nothing.
    """

    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: bool = False


class SamplingOptions(Options):
    """How tokens are chosen."""

    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, ge=0, le=1)
    top_k: int = Field(default=0, ge=-1)
    min_p: float = Field(default=0.0, ge=0, le=1)
    seed: Seed | None = None
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    repetition_penalty: float = Field(default=1.0, gt=0, le=10)
    logit_bias: Biases = Field(default_factory=dict)
    min_tokens: int = Field(default=0, ge=0)
    ignore_eos: bool = False


class FormOptions(Options):
    """What form the answer has; only one may be asked for."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: UnicodeText | None = None
    guided_choice: Annotated[list[UnicodeText], Field(min_length=1)] | None = None
    guided_grammar: UnicodeText | None = None

    @model_validator(mode="after")
    def _one_form(self) -> "FormOptions":
        forms = self._forms()
        if len(forms) > 1:
            asked = " and ".join(form.param for form in forms)
            raise fault(f"asked for by {asked}; give one form of the answer", forms[-1].param)
        return self

    @property
    def form(self) -> Form | None:
        """The form of the answer; None for free text."""
        return next(iter(self._forms()), None)

    def _forms(self) -> list[Form]:
        forms = [] if self.structured_outputs is None else self.structured_outputs.forms()
        own = None if self.response_format is None else self.response_format.form()
        forms += [] if own is None else [own]
        if self.guided_json is not None:
            forms.append(Form(kind="schema", value=self.guided_json, param="guided_json"))
        if self.guided_regex is not None:
            forms.append(Form(kind="regex", value=self.guided_regex, param="guided_regex"))
        if self.guided_choice is not None:
            forms.append(Form(kind="choice", value=self.guided_choice, param="guided_choice"))
        if self.guided_grammar is not None:
            forms.append(Form(kind="grammar", value=self.guided_grammar, param="guided_grammar"))
        return forms


class GenerationOptions(SamplingOptions, FormOptions):
    """What completions and chats have in common."""

    model: str
    n: int = Field(default=1, ge=1, le=MOST_CHOICES)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    stop: Stops = Field(default_factory=list)
    stop_token_ids: StopTokens = Field(default_factory=list)
    stream: bool = False
    stream_options: StreamOptions | None = None

    @property
    def limit(self) -> int | None:
        """The requested maximum length of the answer; the newer of its two names counts."""
        newer = self.max_completion_tokens
        return self.max_tokens if newer is None else newer

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the token counts."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def continuous_usage(self) -> bool:
        """Whether every event has the token counts so far."""
        return self.stream_options is not None and self.stream_options.continuous_usage_stats


class CompletionRequest(GenerationOptions):
    """The body of ``/v1/completions``; ``max_tokens`` 0 asks for the echo alone."""

    prompt: Prompts
    max_tokens: int | None = Field(default=None, ge=0)
    best_of: int | None = Field(default=None, ge=1, le=MOST_CHOICES)
    echo: bool = False
    logprobs: int | None = Field(default=None, ge=0, le=MOST_COMPLETION_LOGPROBS)
    add_special_tokens: bool = True

    @model_validator(mode="after")
    def _options_agree(self) -> "CompletionRequest":
        if self.limit == 0 and not self.echo:
            raise fault("is 0, which needs echo = true; ask for 1 token or more", "max_tokens")
        _check_least(self.min_tokens, self.limit)
        if self.best_of is not None and self.best_of < self.n:
            raise fault(f"is {self.best_of}, less than n = {self.n}; raise it", "best_of")
        if self.draws > self.n and self.stream:
            raise fault("more answers than n cannot be streamed; set stream = false", "best_of")
        return self

    @property
    def draws(self) -> int:
        """The answers to generate for each prompt."""
        return self.n if self.best_of is None else self.best_of


class ChatRequest(GenerationOptions):
    """The body of ``/v1/chat/completions``."""

    messages: list[ChatMessage] = Field(min_length=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, le=MOST_CHAT_LOGPROBS)
    tools: list[Tool] = Field(default_factory=list, max_length=MOST_TOOLS)
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _options_agree(self) -> "ChatRequest":
        if self.top_logprobs and not self.logprobs:
            raise fault("only allowed together with logprobs = true", "top_logprobs")
        _check_least(self.min_tokens, self.limit)
        self._check_tools()
        return self

    def _check_tools(self) -> None:
        names = [tool.function.name for tool in self.tools]
        if isinstance(self.tool_choice, NamedTool):
            if self.tool_choice.function.name not in names:
                raise fault(
                    f"{self.tool_choice.function.name!r} is not among the tools {names}; "
                    "name one of them",
                    "tool_choice",
                )
        elif self.tool_choice == "required" and not names:
            raise fault("a call is required but tools has none; give tools", "tool_choice")

    @property
    def callable(self) -> list[Tool]:
        """The tools that the answer may call."""
        return [] if self.tool_choice == "none" else self.tools


def _check_least(least: int, most: int | None) -> None:
    if most is not None and least > most:
        raise fault(
            f"is {least}, more than the {most} tokens of the answer; lower it", "min_tokens"
        )
