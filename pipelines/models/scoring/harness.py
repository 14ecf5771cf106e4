"""Our models for EleutherAI's evaluation harness, ``lm-eval``, under the name ``raymoe``.

    lm_eval.simple_evaluate("raymoe", {"pretrained": "models/moe"}, ["choices.yaml"])

works once this module is imported. Requests are encoded, cut and ended as by the harness's own
model of transformers, ``hf``, so scores are those of ``hf`` on the same checkpoint.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import (
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from lm_eval.utils import (
    get_rolling_token_windows,
    make_disjoint_window,
    simple_parse_args_string,
)

from moe.config.sampling import Sampling
from moe.errors import ConfigError
from pipelines.models.scoring.fit import Fit
from pipelines.models.scoring.runner import Progress, Runner
from pipelines.serving.generation.generation import Generation, Job
from pipelines.serving.generation.local import LocalEngine
from pipelines.serving.text.text import Text

GENERATED = 256
"""Most tokens of an answer for a task that does not say; as of ``hf``."""

TOGETHER = 8
"""Prompts that run together, unless asked otherwise."""

Pair = tuple[tuple[str, str], list[int], list[int]]
"""Texts of context and continuation, for whoever caches, and their tokens."""


@register_model("raymoe")
class HarnessModel(TemplateLM):  # type: ignore[misc]  # the harness has no types
    """A model over an engine.

    ``prefix`` is the token before a text that has nothing before it; None: that of ``hf``.
    """

    def __init__(
        self,
        runner: Runner,
        fit: Fit,
        prefix: int | None = None,
        progress: Progress = lambda done, of: None,
    ) -> None:
        super().__init__()
        self._runner = runner
        self._text = fit.text
        self._prefix = _first(fit.text) if prefix is None else prefix
        self._progress = progress
        self.max_length = fit.length

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> "HarnessModel":
        """Return the model of the directory ``pretrained``, computed in this process.

        The harness calls this for its ``model_args``; of these it also takes ``max_length`` and
        ``prefix_token_id``, and its ``batch_size``.
        """
        given = {**arg_dict, **(additional_config or {})}
        known = {"pretrained", "max_length", "prefix_token_id", "batch_size"}
        if unknown := sorted(given.keys() - known - {"device", "max_batch_size"}):
            raise ConfigError(
                f"model_args of raymoe are {', '.join(sorted(known))}; {unknown[0]} is not taken"
            )
        model = Path(given["pretrained"])
        fit = Fit.of(model, given.get("max_length"), int(given.get("batch_size") or TOGETHER))
        runner = Runner(LocalEngine(model, fit.how), fit.room, fit.text)
        return cls(runner, fit, given.get("prefix_token_id"))

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: Mapping[str, Any] | None = None
    ) -> "HarnessModel":
        """Return the model of ``pretrained=DIR``, with commas between it and other arguments."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self._prefix if self._text.end is None else self._text.end

    @property
    def prefix_token_id(self) -> int:
        """The token before a text that has nothing before it."""
        return self._prefix

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **others: Any
    ) -> list[int]:
        """Return the tokens of a text, with the special tokens that the tokenizer adds."""
        begun = has_bos_prefix(string, self._text.whole([self._prefix]))
        special = not begun if add_special_tokens is None else add_special_tokens
        return list(self._text.encode(string, special))

    def _loglikelihood_tokens(
        self, requests: Sequence[Pair], **others: Any
    ) -> list[tuple[float, bool]]:
        """Return for each continuation its log-probability, and whether it is the likeliest."""
        jobs = [self._scoring(context, continued) for _, context, continued in requests]
        done = self._runner.run(jobs, self._progress)
        found = []
        for (texts, _, continued), generation in zip(requests, done, strict=True):
            found.append(_likelihood(generation, len(continued)))
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, found[-1])
        return found

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Return the log-probability of each text, in windows of the model's length."""
        pairs, counts = list[Any](), list[int]()
        for (text,) in (request.args for request in requests):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            own = [(None, *make_disjoint_window(window)) for window in windows]
            pairs += own
            counts.append(len(own))
        found = iter(self._loglikelihood_tokens(pairs))
        return [sum(next(found)[0] for _ in range(count)) for count in counts]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return an answer to each prompt, which ends where the task says."""
        asked = [request.args for request in requests]
        jobs = [self._answering(prompt, how) for prompt, how in asked]
        found = []
        for (prompt, how), done in zip(asked, self._runner.run(jobs, self._progress), strict=True):
            whole = self._text.decode(done.tokens)
            found.append(postprocess_generated_text(whole, list(done.job.stop), None))
            self.cache_hook.add_partial("generate_until", (prompt, how), found[-1])
        return found

    def _answering(self, prompt: str, how: Mapping[str, Any]) -> Job:
        """Return the job that answers a prompt, cut off on the left where it is too long."""
        settings = normalize_gen_kwargs(dict(how), GENERATED)
        most = settings.pop("max_gen_toks")
        stops = handle_stop_sequences(settings.pop("until"), self._text.whole([self.eot_token_id]))
        if most >= self.max_length:
            raise ConfigError(
                f"a task asks for answers of {most} tokens, and the model reads {self.max_length} "
                "tokens, prompt and answer together; set max_gen_toks in the task"
            )
        return Job(
            tuple(self.tok_encode(prompt)[most - self.max_length :]) or (self._prefix,),
            most,
            _sampling(settings),
            stop=tuple(filter(None, stops)),
            stop_tokens=self._text.eos,
        )

    def _scoring(self, context: list[int], continued: list[int]) -> Job:
        """Return the job that scores a continuation; a long context is cut off on the left.

        The last token is scored and not read, so there may be one more than the model reads.
        """
        if len(continued) > self.max_length:
            raise ConfigError(
                f"a task asks about a continuation of {len(continued)} tokens, and the model reads "
                f"{self.max_length}; give a larger --length, if the model takes more"
            )
        tokens = (context + continued)[-(self.max_length + 1) :]
        return Job(tuple(tokens), 0, Sampling(), scored=1)


def _first(text: Text) -> int:
    """Return the token before a text that has nothing before it."""
    found = text.end if text.begin is None else text.begin
    if found is None:
        raise ConfigError(
            "the tokenizer names neither a first nor an end token, one of which stands before a "
            "text that has nothing before it; set bos_token or eos_token in tokenizer_config.json"
        )
    return found


def _likelihood(generation: Generation, count: int) -> tuple[float, bool]:
    scores = generation.scores[-count:]
    total = sum(each.logprob for each in scores)
    return total, all(each.top[0][0] == each.token for each in scores)


def _sampling(settings: Mapping[str, Any]) -> Sampling:
    """Return how tokens are drawn; ConfigError names what we do not take."""
    greedy = not settings.get("do_sample")
    known = {"temperature", "top_p", "top_k", "min_p", "repetition_penalty"}
    if unknown := sorted(settings.keys() - known - {"do_sample"}):
        raise ConfigError(
            f"a task asks to generate with {', '.join(unknown)}, which raymoe does not take; "
            f"of generation_kwargs it takes do_sample, until, max_gen_toks, "
            f"{', '.join(sorted(known))}"
        )
    given = {name: value for name, value in settings.items() if name in known}
    return Sampling(**given | ({"temperature": 0.0} if greedy else {}))
