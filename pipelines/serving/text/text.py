"""The tokenizer and the chat template of a model directory."""

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from jinja2 import TemplateError
from transformers import AutoTokenizer

from moe.config.end_tokens import end_tokens
from moe.config.stand_ins import what_stands_for
from moe.errors import CheckpointError
from pipelines.serving.refusals import BadRequest
from pipelines.serving.text.detokenize import Detokenizer
from pipelines.serving.text.grammar import Grammars
from pipelines.serving.text.token_bytes import TokenBytes
from pipelines.serving.text.transcript import Transcript, transcript

Message = Mapping[str, Any]


class Spelled(NamedTuple):
    """Tokens, and for each the first character that it stands for and the one after the last."""

    tokens: list[int]
    offsets: list[tuple[int, int]]


class Text:
    """Prompts to tokens, messages to tokens, tokens to text; safe to use from several threads.

    ``begin`` and ``end`` are the tokens before and after texts, as the tokenizer names them;
    ``eos`` are those at which an answer ends.
    """

    def __init__(self, tokenizer: Any, eos: frozenset[int], template: str) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self.eos = eos
        self.begin: int | None = tokenizer.bos_token_id
        self.end: int | None = tokenizer.eos_token_id
        self._bytes = TokenBytes(self._backend, tokenizer.added_tokens_decoder)
        self._longest = max(map(len, self._backend.get_vocab()))
        self.grammars = Grammars(self._backend.to_str, eos)

    @classmethod
    def open(cls, model: Path) -> "Text":
        """Read the tokenizer of a directory and the tokens at which its model ends."""
        if not (model / "tokenizer.json").is_file():
            raise CheckpointError(
                f"{model} has no tokenizer.json, so text cannot be served; "
                "copy the tokenizer of the model from which it was made"
            )
        try:
            with _no_word_of_the_model():
                tokenizer = AutoTokenizer.from_pretrained(
                    model, local_files_only=True, trust_remote_code=False
                )
        except Exception as error:  # The library raises no narrower exception.
            raise CheckpointError(
                what_stands_for(model / "tokenizer.json")
                or f"the tokenizer in {model} cannot be read: {error}"
            ) from error
        return cls(tokenizer, _eos(model, tokenizer), _template_file(model))

    def encode(self, prompt: str, special: bool = True) -> tuple[int, ...]:
        """Return the tokens of a prompt; ``special`` adds the special tokens around texts.

        Other threads run in the meantime: the batched call without offsets releases Python's lock.
        """
        (encoding,) = self._backend.encode_batch_fast([prompt], add_special_tokens=special)
        return tuple(encoding.ids)

    def fewest_tokens(self, prompt: str) -> int:
        """Return the smallest possible number of tokens of a prompt, from the longest token."""
        return -(-len(prompt) // self._longest)

    @property
    def template(self) -> str:
        """The source of the chat template; empty if there is none."""
        return _source(self._tokenizer.chat_template)

    @property
    def special(self) -> frozenset[str]:
        """The texts that are read as special tokens."""
        return self._bytes.special

    def hides(self, text: str) -> bool:
        """Return whether a text is a special token, which answers do not show."""
        return self._bytes.hides(text)

    @property
    def described(self) -> dict[str, str | None]:
        """The special tokens and the chat template."""
        names = ("bos_token", "eos_token", "pad_token")
        found = {name: getattr(self._tokenizer, name) for name in names}
        template = self._tokenizer.chat_template
        return found | {"chat_template": template if isinstance(template, str) else None}

    def conversation(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        options: Mapping[str, Any] = MappingProxyType({}),
    ) -> str:
        """Return a conversation as the prompt that ends where the model's answer begins.

        The template adds the special tokens, so ``encode`` must not add others. ``options`` are
        variables of the template.
        """
        if not self._tokenizer.chat_template:
            raise BadRequest(
                "this model has no chat template; use /v1/completions, "
                "or add chat_template.jinja to the model directory",
                param="messages",
            )
        _check_variables(self._tokenizer.apply_chat_template, options)
        try:
            return self._rendered(messages, tools, options)
        except Exception as error:  # A template is a program that came with the model.
            raise BadRequest(
                f"the model's chat template ({self._template}) refuses these messages: "
                f"{refusal(error)}",
                param="messages",
            ) from error

    def _rendered(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        options: Mapping[str, Any],
    ) -> str:
        prompt = self._tokenizer.apply_chat_template(
            [dict(each) for each in messages],
            tools=[dict(each) for each in tools] or None,
            tokenize=False,
            add_generation_prompt=True,
            **options,
        )
        return str(prompt)

    def own_template(self, tools: bool = False) -> str | None:
        """Return the source of the model's own chat template, of several the one with tools if
        asked; None if there is none.
        """
        if not self._tokenizer.chat_template:
            return None
        try:
            return str(self._tokenizer.get_chat_template(tools=[] if tools else None))
        except ValueError as error:  # several templates, none of which is the default
            raise CheckpointError(f"{self._template}: {error}") from error

    def transcript(
        self,
        source: str,
        messages: Sequence[Message],
        tools: Sequence[Message] = (),
        answering: bool = False,
    ) -> Transcript:
        """Render a conversation by the source of a template; raises what the template raises."""
        variables = self._tokenizer.special_tokens_map
        return transcript(source, messages, tools, variables, answering)

    def spelled(self, texts: Sequence[str]) -> list[Spelled]:
        """Return the tokens of texts in which special tokens stand already, and the characters that
        each token stands for.
        """
        encodings = self._backend.encode_batch(list(texts), add_special_tokens=False)
        return [Spelled(each.ids, each.offsets) for each in encodings]

    def whole(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, special tokens included."""
        return str(self._backend.decode(list(tokens), skip_special_tokens=False))

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of an answer."""
        return str(
            self._backend.decode([token for token in tokens if not self._bytes.silent(token)])
        )

    def detokenizer(self) -> Detokenizer:
        """Return an object that gives the text of ``decode`` token by token."""
        return Detokenizer(self.decode, self._bytes.silent, self._bytes.single)

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes a token stands for, which may be a part of a character."""
        return self._bytes.of(token)

    def token_text(self, token: int) -> str:
        """Return a token as text; bytes that are not a complete character as ``\\xNN``."""
        return self.token_bytes(token).decode("utf-8", "backslashreplace")


@contextmanager
def _no_word_of_the_model() -> Iterator[None]:
    """Suppress the warning of transformers about an unknown model; only text is read here."""
    logger = logging.getLogger("transformers.configuration_utils")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def refusal(error: Exception) -> str:
    """Return what a template said when it refused a conversation, or how it failed."""
    kind = "" if isinstance(error, TemplateError) else f"{type(error).__name__}: "
    return f"{kind}{error}"


def _template_file(model: Path) -> str:
    """Return the file of a model directory that holds its chat template."""
    own = "chat_template.jinja"
    return own if (model / own).is_file() else "chat_template of tokenizer_config.json"


def _check_variables(render: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Refuse what is no variable of a template but an argument of the library."""
    own = sorted((inspect.signature(render).parameters.keys() - {"documents"}) & options.keys())
    if own:
        raise BadRequest(
            f"chat_template_kwargs: {own[0]} is set by the server; leave it out",
            param="chat_template_kwargs",
        )


def _source(template: Any) -> str:
    """Return the text of a chat template; models may have several by name."""
    if isinstance(template, dict):
        return "".join(template.values())
    return template or ""


def _eos(model: Path, tokenizer: Any) -> frozenset[int]:
    """Return the end tokens: those of transformers' generation, and the tokenizer's own."""
    own = tokenizer.eos_token_id
    return frozenset(end_tokens(model)) | (frozenset() if own is None else {own})
