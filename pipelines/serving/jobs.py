"""Turns a request into jobs: prompt, limits, sampling, and what ends an answer."""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from moe.config.model import ModelConfig
from moe.config.sampling import Sampling
from pipelines.serving.forms import chat_grammar, form_grammar
from pipelines.serving.generation.generation import Job
from pipelines.serving.limits import Limits
from pipelines.serving.protocol.requests import (
    ChatRequest,
    CompletionRequest,
    GenerationOptions,
)
from pipelines.serving.refusals import BadRequest
from pipelines.serving.text.grammar import Matcher
from pipelines.serving.text.text import Text
from pipelines.serving.tools.style import BEGIN, Style, style_of

COMPLETION_TOKENS = 16
"""Tokens of a completion that sets no limit, as OpenAI defines it."""

_TAKES = {"prompt": "takes", "messages": "take"}
"""The verb for each field that can be too long."""


@dataclass(frozen=True, slots=True)
class Jobs:
    """Makes the jobs of requests to one model."""

    config: ModelConfig
    text: Text
    limits: Limits

    def completions(self, request: CompletionRequest) -> list[Job]:
        """Return ``request.draws`` jobs for each prompt, in the order of their choices."""
        param = "prompt" if request.draws == 1 else "n"
        self._check_number(len(request.prompt) * request.draws, param)
        matcher = None
        if request.form is not None:
            matcher = self.text.grammars.matcher(form_grammar(request.form), request.form.param)
        prompts = [self._prompt(prompt, request) for prompt in request.prompt]
        scored = request.logprobs if request.echo else None
        wanted = 0 if request.logprobs is None and request.draws > request.n else request.logprobs
        base = self._base(request, wanted)
        jobs = []
        for prompt in prompts:
            room = self._room("prompt", len(prompt), request.limit, COMPLETION_TOKENS)
            job = replace(base, prompt=prompt, max_tokens=max(1, room), scored=scored)
            jobs += _drawn(job, request.draws, matcher)
        return jobs

    def chats(self, request: ChatRequest) -> list[Job]:
        """Return one job for each choice."""
        self._check_number(request.n, "n")
        matcher = self._chat_matcher(request)
        prompt = self.conversation(request)
        room = self._room("messages", len(prompt), request.limit, self.limits.chat_tokens)
        base = self._base(request, (request.top_logprobs or 0) if request.logprobs else None)
        return _drawn(replace(base, prompt=prompt, max_tokens=room), request.n, matcher)

    @property
    def tool_style(self) -> Style | None:
        """How the model writes calls of functions; None if its chat template reads no tools."""
        return style_of(self.text.template, silent=self.text.hides(BEGIN))

    def conversation(self, request: ChatRequest) -> tuple[int, ...]:
        """Return the tokens of a conversation as the chat template renders it."""
        options = dict(request.chat_template_kwargs)
        if request.reasoning_effort is not None:
            options.setdefault("reasoning_effort", request.reasoning_effort)
        said = self.text.conversation(
            [each.as_template_input() for each in request.messages],
            [each.as_template_input() for each in request.callable],
            options,
        )
        self._check_length("messages", said)
        return self.text.encode(said, special=False)

    def prompt(self, prompt: str | list[int], special: bool = True) -> tuple[int, ...]:
        """Return the tokens of a prompt, which may be tokens already."""
        if isinstance(prompt, str):
            self._check_length("prompt", prompt)
            return self.text.encode(prompt, special)
        self.check_tokens(prompt, "prompt")
        return tuple(prompt)

    def check_tokens(self, tokens: Sequence[int], param: str) -> None:
        """Raise BadRequest for a number that is no token."""
        size = self.config.vocab_size
        unknown = next((token for token in tokens if not 0 <= token < size), None)
        if unknown is not None:
            raise BadRequest(f"token {unknown} is not in the vocabulary of 0 to {size - 1}", param)

    def _prompt(self, prompt: str | list[int], request: CompletionRequest) -> tuple[int, ...]:
        tokens = self.prompt(prompt, request.add_special_tokens)
        bos = self.config.bos_token_id
        if not tokens and bos is not None:
            return (bos,)
        if not tokens:
            raise BadRequest("the prompt is empty, and this model has no beginning", "prompt")
        return tokens

    def _base(self, request: GenerationOptions, logprobs: int | None) -> Job:
        """Return a job without a prompt."""
        self.check_tokens(request.stop_token_ids, "stop_token_ids")
        self.check_tokens(tuple(request.logit_bias), "logit_bias")
        ends = frozenset(request.stop_token_ids)
        ends |= frozenset() if request.ignore_eos else self.text.eos
        sampling = _sampling(request, logprobs, ends)
        return Job((), 1, sampling, tuple(request.stop), ends)

    def _chat_matcher(self, request: ChatRequest) -> Matcher | None:
        style = self.tool_style
        if request.callable and style is None:
            raise BadRequest(
                "this model's chat template does not read tools; leave tools out, or serve a model "
                "that was trained to call them",
                "tools",
            )
        grammar = chat_grammar(request, style)
        if grammar is None:
            return None
        param = "tools" if request.form is None else request.form.param
        return self.text.grammars.matcher(grammar, param)

    def _check_number(self, wanted: int, param: str) -> None:
        most = self.limits.held
        if wanted > most:
            raise BadRequest(
                f"{wanted} answers in one request, but the server holds {most}; "
                "ask for them in several requests",
                param,
            )

    def _check_length(self, param: str, prompt: str) -> None:
        """Refuse a text that is too long under any tokenization, before the time for tokenizing is
        spent.
        """
        context, fewest = self.config.max_positions, self.text.fewest_tokens(prompt)
        if fewest > context:
            raise BadRequest(
                f"this server's context is {context} tokens; the {param} of {len(prompt)} "
                f"characters {_TAKES[param]} {fewest} or more; shorten the {param}",
                param=param,
                code="context_length_exceeded",
            )

    def _room(self, param: str, prompt: int, asked: int | None, usual: int) -> int:
        """Return the maximum number of tokens to generate; raise BadRequest if the context is too
        small.
        """
        context = self.config.max_positions
        wanted = 1 if asked is None else asked
        if prompt + wanted > context:
            raise BadRequest(
                f"this server's context is {context} tokens; the {param} {_TAKES[param]} {prompt} "
                f"and the answer at least {wanted}, {prompt + wanted} in all; shorten one of them",
                param=param,
                code="context_length_exceeded",
            )
        return min(usual, context - prompt) if asked is None else asked


def _drawn(job: Job, count: int, matcher: Matcher | None) -> list[Job]:
    """Return the same job several times, each with a seed and a matcher of its own."""
    return [
        replace(
            job,
            sampling=replace(job.sampling, seed=_seed(job.sampling.seed, choice)),
            constraint=None if matcher is None else matcher.copy(),
        )
        for choice in range(count)
    ]


def _seed(seed: int, choice: int) -> int:
    """Return the seed of a choice: the first has that of the request."""
    if choice == 0:
        return seed
    digest = hashlib.blake2b(f"choice {choice} of {seed}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _sampling(request: GenerationOptions, logprobs: int | None, ends: frozenset[int]) -> Sampling:
    return Sampling(
        temperature=request.temperature,
        top_p=request.top_p,
        seed=secrets.randbits(63) if request.seed is None else request.seed,
        logprobs=logprobs,
        top_k=max(0, request.top_k),
        min_p=request.min_p,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        repetition_penalty=request.repetition_penalty,
        logit_bias=tuple(request.logit_bias.items()),
        min_tokens=request.min_tokens,
        stop_tokens=tuple(sorted(ends)) if request.min_tokens else (),
    )
