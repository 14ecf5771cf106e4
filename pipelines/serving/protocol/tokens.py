"""Requests and replies about tokens alone, as vLLM has them."""

from pydantic import Field, model_validator

from pipelines.serving.protocol.fields import UnicodeText
from pipelines.serving.protocol.messages import ChatMessage
from pipelines.serving.protocol.options import Options, fault
from pipelines.serving.protocol.replies import Reply
from pipelines.serving.protocol.tools import Tool


class TokenizeRequest(Options):
    """The body of ``/tokenize``: a text, or a conversation as the chat template renders it."""

    model: str | None = None
    prompt: UnicodeText | None = None
    messages: list[ChatMessage] | None = Field(default=None, min_length=1)
    tools: list[Tool] = Field(default_factory=list)
    add_special_tokens: bool = True
    return_token_strs: bool = False

    @model_validator(mode="after")
    def _one_text(self) -> "TokenizeRequest":
        if (self.prompt is None) == (self.messages is None):
            raise fault("give a prompt or messages, one of them", "prompt")
        return self


class Tokenized(Reply):
    """The reply of ``/tokenize``."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(Options):
    """The body of ``/detokenize``."""

    model: str | None = None
    tokens: list[int]


class Detokenized(Reply):
    """The reply of ``/detokenize``."""

    prompt: str


class TokenizerInfo(Reply):
    """The reply of ``/tokenizer_info``."""

    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    chat_template: str | None
    max_model_len: int
