"""The typed OpenAI replies of this server. Fields that are not set do not appear in the JSON."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pipelines.serving.generation.generation import FinishReason

ChatFinish = FinishReason | Literal["tool_calls"]


class Reply(BaseModel):
    """An object of a reply."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @property
    def event_name(self) -> str:
        """The name under which a stream sends it; empty: none."""
        return ""

    def json_text(self) -> str:
        """Return the object as one line of JSON."""
        return self.model_dump_json(exclude_unset=True)


class PromptDetails(Reply):
    """Tokens of the prompt that a cache had."""

    cached_tokens: int


class Usage(Reply):
    """Tokens of prompt and answer; the answer includes the token that ended it."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class CompletionLogprobs(Reply):
    """Parallel lists over tokens; offsets count characters of the answer, its echo included.

    Of the first token of an echo nothing is known.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CompletionChoice(Reply):
    """One answer, or a piece of it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


class Completion(Reply):
    """The reply of ``/v1/completions``, and each event of its stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
    system_fingerprint: str | None = None


class TokenLogprob(Reply):
    """A token with its log-probability; ``bytes`` distinguishes tokens that are parts of
    characters.
    """

    token: str
    logprob: float
    bytes: list[int]


class ChosenLogprob(TokenLogprob):
    """The chosen token, and the likeliest tokens."""

    top_logprobs: list[TokenLogprob]


class ChatLogprobs(Reply):
    """One entry for each token."""

    content: list[ChosenLogprob]


class CalledFunction(Reply):
    """The name of a called function, and its arguments as JSON."""

    name: str
    arguments: str


class CallReply(Reply):
    """A call of a function; its result refers to ``id``."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class CallDelta(CallReply):
    """A whole call in a stream, with its number in the message."""

    index: int


class Answer(Reply):
    """The assistant's message: complete or, in a stream, its new part."""

    role: Literal["assistant"] = "assistant"
    content: str | None = ""
    tool_calls: list[CallReply] | list[CallDelta] = Field(default_factory=list)


class ChatChoice(Reply):
    """A complete answer."""

    index: int
    message: Answer
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinish


class Chat(Reply):
    """The reply of ``/v1/chat/completions``."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    system_fingerprint: str | None = None


class ChatChunkChoice(Reply):
    """A piece of an answer."""

    index: int
    delta: Answer
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinish | None


class ChatChunk(Reply):
    """One event of a streamed chat."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
    system_fingerprint: str | None = None


class Model(Reply):
    """What is served: the model, or an adapter of it, whose ``parent`` it is."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int
    parent: str | None = None


class ModelList(Reply):
    """The reply of ``/v1/models``."""

    object: Literal["list"]
    data: list[Model]


class Health(Reply):
    """The reply of ``/health``: the engine's state and the queue.

    Of several replicas it is the state of the best, and the queues of all; ``asleep`` where there
    is none.
    """

    status: Literal["serving", "mending", "rebuilding", "failed", "asleep"]
    running: int
    waiting: int
    replicas: int = 1


class ErrorFields(Reply):
    """What went wrong, the field of the request at fault, and a code for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Reply):
    """The body of every reply that is not an answer."""

    error: ErrorFields
