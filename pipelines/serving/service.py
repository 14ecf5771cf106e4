"""One model under one name, and its adapters under theirs: jobs, queue, tokenizer."""

import time
from collections.abc import Sequence
from dataclasses import replace

from moe.config.model import ModelConfig
from pipelines.serving.adapters import Adapters
from pipelines.serving.generation.adapter import Adapter
from pipelines.serving.generation.generation import Generation, Job
from pipelines.serving.generation.scheduler import Scheduler, Status
from pipelines.serving.generation.stream import Stream
from pipelines.serving.jobs import Jobs
from pipelines.serving.limits import Limits, body_bytes
from pipelines.serving.protocol.replies import Health, Model
from pipelines.serving.protocol.requests import ChatRequest, CompletionRequest
from pipelines.serving.protocol.tokens import (
    Detokenized,
    DetokenizeRequest,
    Tokenized,
    TokenizeRequest,
    TokenizerInfo,
)
from pipelines.serving.refusals import UnknownModel
from pipelines.serving.telemetry import Telemetry
from pipelines.serving.text.text import Text
from pipelines.serving.tools.reader import Reader, reader_of

MOST_SHOWN = 16
"""Names of models in an error."""


class Service:
    """One model under one name; ``adapters`` are those that it can answer with, if any."""

    def __init__(
        self,
        name: str,
        config: ModelConfig,
        text: Text,
        scheduler: Scheduler,
        limits: Limits,
        telemetry: Telemetry,
    ) -> None:
        self.name = name
        self.created = int(time.time())
        self.text = text
        self.telemetry = telemetry
        self._config = config
        self._scheduler = scheduler
        self._limits = limits
        self._jobs = Jobs(config, text, limits)
        self.adapters: Adapters | None = None

    @property
    def body_bytes(self) -> int:
        """The largest body that a request may have."""
        return body_bytes(self._config.max_positions)

    @property
    def context(self) -> int:
        """The most tokens of prompt and answer together."""
        return self._config.max_positions

    @property
    def status(self) -> Status:
        """The state of the engine and the queue."""
        return self._scheduler.status

    @property
    def health(self) -> Health:
        """The state of the engine and the queue, as the API tells it."""
        status = self.status
        return Health(status=status.state, running=status.running, waiting=status.waiting)

    def figures(self) -> bytes:
        """Return what was measured so far, in the text form of Prometheus."""
        status = self.status
        counts = status.counts
        self.telemetry.load(status.running, status.waiting, status.cache_used)
        self.telemetry.totals(counts.prompt_tokens, counts.cached_tokens, counts.preemptions)
        return self.telemetry.text()

    def models(self) -> list[Model]:
        """Return what requests may name as their model: the model first, then its adapters."""
        loaded = {} if self.adapters is None else self.adapters.loaded
        every: list[tuple[str, int, str | None]] = [(self.name, self.created, None)]
        every += [(name, each.created, self.name) for name, each in loaded.items()]
        return [
            Model(
                id=name,
                object="model",
                created=created,
                owned_by="raymoe",
                max_model_len=self.context,
                parent=parent,
            )
            for name, created, parent in every
        ]

    def adapter(self, name: str) -> Adapter | None:
        """Return the adapter that requests ask for by a name, None for the model itself.

        UnknownModel for what is not served here.
        """
        if name == self.name:
            return None
        found = None if self.adapters is None else self.adapters.named(name)
        if found is None:
            known = ", ".join(repr(each.id) for each in self.models()[:MOST_SHOWN])
            raise UnknownModel(
                f"the model {name!r} is not served here; this server has {known}",
                param="model",
                code="model_not_found",
            )
        return found

    def completion_jobs(self, request: CompletionRequest) -> list[Job]:
        """Return the jobs of a request, choice after choice, prompt after prompt."""
        adapter = self.adapter(request.model)
        return [replace(job, adapter=adapter) for job in self._jobs.completions(request)]

    def chat_jobs(self, request: ChatRequest) -> list[Job]:
        """Return the jobs that answer a conversation, one for each choice."""
        adapter = self.adapter(request.model)
        return [replace(job, adapter=adapter) for job in self._jobs.chats(request)]

    def tokenize(self, request: TokenizeRequest) -> Tokenized:
        """Return the tokens of a text or of a conversation."""
        self.adapter(request.model or self.name)
        tokens = list(self._tokens(request))
        reply = Tokenized(count=len(tokens), max_model_len=self.context, tokens=tokens)
        if not request.return_token_strs:
            return reply
        return reply.model_copy(
            update={"token_strs": [self.text.token_text(token) for token in tokens]}
        )

    def detokenize(self, request: DetokenizeRequest) -> Detokenized:
        """Return the text of tokens, special tokens included."""
        self.adapter(request.model or self.name)
        self._jobs.check_tokens(request.tokens, "tokens")
        return Detokenized(prompt=self.text.whole(request.tokens))

    def tokenizer_info(self) -> TokenizerInfo:
        """Return the special tokens and the chat template."""
        return TokenizerInfo(**self.text.described, max_model_len=self.context)

    def reader(self, request: ChatRequest) -> Reader:
        """Return what finds the calls in an answer."""
        names = [tool.function.name for tool in request.callable]
        return reader_of(self._jobs.tool_style, names)

    def open(self, jobs: Sequence[Job]) -> list[Stream]:
        """Queue all of the jobs or none."""
        return self._scheduler.submit([Generation(job, self.text.detokenizer()) for job in jobs])

    def close(self, timeout_seconds: float) -> None:
        """End the engine."""
        self._scheduler.close(timeout_seconds)

    def _tokens(self, request: TokenizeRequest) -> tuple[int, ...]:
        if request.prompt is not None:
            return self._jobs.prompt(request.prompt, request.add_special_tokens)
        assert request.messages is not None
        chat = ChatRequest(model=self.name, messages=request.messages, tools=request.tools)
        return self._jobs.conversation(chat)
