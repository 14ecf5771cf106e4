"""Turns a request of the protocol into generations of the scheduler."""

import secrets
import time
from collections.abc import Sequence

from moe.config.model import ModelConfig
from moe.config.sampling import Sampling
from pipelines.serving.generation.generation import Generation, Job
from pipelines.serving.generation.scheduler import Scheduler, Status
from pipelines.serving.generation.stream import Stream
from pipelines.serving.limits import Limits, body_bytes
from pipelines.serving.protocol.requests import ChatRequest, CompletionRequest, GenerationOptions
from pipelines.serving.refusals import BadRequest, UnknownModel
from pipelines.serving.text.text import Text

COMPLETION_TOKENS = 16
"""Tokens of a completion that sets no limit, as OpenAI defines it."""

_TAKES = {"prompt": "takes", "messages": "take"}
"""The verb for each field that can be too long."""


class Service:
    """One model under one name."""

    def __init__(
        self, name: str, config: ModelConfig, text: Text, scheduler: Scheduler, limits: Limits
    ) -> None:
        self.name = name
        self.created = int(time.time())
        self.text = text
        self._config = config
        self._scheduler = scheduler
        self._limits = limits

    @property
    def body_bytes(self) -> int:
        """The largest body that a request may have."""
        return body_bytes(self._config.max_positions)

    @property
    def status(self) -> Status:
        """The state of the engine and the queue."""
        return self._scheduler.status

    def check_model(self, name: str) -> None:
        """Raise UnknownModel for a model that is not served here."""
        if name != self.name:
            raise UnknownModel(
                f"the model {name!r} is not served here; this server has {self.name!r}",
                param="model",
                code="model_not_found",
            )

    def completion_jobs(self, request: CompletionRequest) -> list[Job]:
        """Return one job for each prompt."""
        self.check_model(request.model)
        most = self._limits.waiting + 1
        if len(request.prompt) > most:
            raise BadRequest(
                f"{len(request.prompt)} prompts in one request, but the server holds {most}; "
                "send them in several requests",
                param="prompt",
            )
        sampling = _sampling(request, request.logprobs)
        prompts = [self._prompt_tokens(prompt) for prompt in request.prompt]
        return [
            Job(
                prompt,
                self._room("prompt", len(prompt), request.max_tokens, COMPLETION_TOKENS),
                sampling,
                tuple(request.stop),
                self.text.eos,
            )
            for prompt in prompts
        ]

    def chat_job(self, request: ChatRequest) -> Job:
        """Return the job that answers a conversation."""
        self.check_model(request.model)
        said = self.text.conversation([each.as_template_input() for each in request.messages])
        self._check_length("messages", said)
        prompt = self.text.encode(said, special=False)
        most = self._room("messages", len(prompt), request.limit, self._limits.chat_tokens)
        sampling = _sampling(request, (request.top_logprobs or 0) if request.logprobs else None)
        return Job(prompt, most, sampling, tuple(request.stop), self.text.eos)

    def open(self, jobs: Sequence[Job]) -> list[Stream]:
        """Queue all of the jobs or none."""
        return self._scheduler.submit(
            [Generation(job, self.text.detokenizer(), self._limits.prefill_tokens) for job in jobs]
        )

    def close(self, timeout_seconds: float) -> None:
        """End the engine."""
        self._scheduler.close(timeout_seconds)

    def _prompt_tokens(self, prompt: str | list[int]) -> tuple[int, ...]:
        if isinstance(prompt, str):
            self._check_length("prompt", prompt)
        tokens = self.text.encode(prompt) if isinstance(prompt, str) else tuple(prompt)
        bos = self._config.bos_token_id
        if not tokens and bos is not None:
            return (bos,)
        if not tokens:
            raise BadRequest("the prompt is empty, and this model has no beginning", "prompt")
        vocab_size = self._config.vocab_size
        unknown = [token for token in tokens if not 0 <= token < vocab_size]
        if unknown:
            raise BadRequest(
                f"token {unknown[0]} is not in the vocabulary of 0 to {vocab_size - 1}", "prompt"
            )
        return tokens

    def _check_length(self, param: str, prompt: str) -> None:
        """Refuse a text that is too long under any tokenization, before the time for tokenizing is
        spent.
        """
        context, fewest = self._config.max_positions, self.text.fewest_tokens(prompt)
        if fewest > context:
            raise BadRequest(
                f"this model's context is {context} tokens; the {param} of {len(prompt)} "
                f"characters {_TAKES[param]} {fewest} or more; shorten the {param}",
                param=param,
                code="context_length_exceeded",
            )

    def _room(self, param: str, prompt: int, asked: int | None, usual: int) -> int:
        """Return the maximum number of tokens to generate; raise BadRequest if the context is too
        small.
        """
        context = self._config.max_positions
        wanted = 1 if asked is None else asked
        if prompt + wanted > context:
            raise BadRequest(
                f"this model's context is {context} tokens; the {param} {_TAKES[param]} {prompt} "
                f"and the answer at least {wanted}, {prompt + wanted} in all; shorten one of them",
                param=param,
                code="context_length_exceeded",
            )
        return min(usual, context - prompt) if asked is None else asked


def _sampling(request: GenerationOptions, logprobs: int | None) -> Sampling:
    seed = secrets.randbits(63) if request.seed is None else request.seed
    return Sampling(request.temperature, request.top_p, seed, logprobs)
