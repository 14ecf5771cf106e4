"""Grammars over the tokens of a model: which tokens may come next in an answer of a given form."""

import json
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray

from moe.errors import RequestError
from pipelines.serving.refusals import BadRequest
from pipelines.serving.text.schema import closed

WHITESPACE = {"whitespace_flexible": True, "whitespace_pattern": r"( |\n[ \t]{0,20})?"}
"""Whitespace in JSON: one space, or a new line with its indentation. Without a bound a model may
write nothing else until its limit.
"""


QUIET = LLParserLimits(verbose_errors=False)
"""Errors without the library's inner state."""


class Grammars:
    """Makes matchers for one tokenizer, whose JSON is read at the first use; safe for threads."""

    def __init__(self, serialized: Callable[[], str], eos: frozenset[int]) -> None:
        self._serialized = serialized
        self._eos = sorted(eos)
        self._lock = threading.Lock()
        self._made: LLTokenizer | None = None

    def matcher(self, lark: str, param: str) -> "Matcher":
        """Return a matcher of a grammar in the library's Lark; BadRequest names ``param`` if it is
        no grammar.
        """
        tokenizer = self._tokenizer()
        wrong, said = LLMatcher.validate_grammar_with_warnings(lark, tokenizer)
        if wrong:
            raise _refusal(said[0].splitlines()[0].partition(": ")[2], param)
        matcher = LLMatcher(tokenizer, lark, log_level=0, limits=QUIET)
        matcher.compute_bitmask()
        if matcher.is_error():
            raise _refusal(f"no text fits it ({matcher.get_error().splitlines()[0]})", param)
        return Matcher(matcher)

    def _tokenizer(self) -> LLTokenizer:
        with self._lock:
            if self._made is None:
                self._made = LLTokenizer(self._serialized(), eos_token=self._eos or None)
            return self._made


class Matcher:
    """Follows one answer through a grammar."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    @property
    def finished(self) -> bool:
        """Whether the answer is complete and nothing may follow."""
        return bool(self._matcher.is_stopped())

    def allowed(self) -> NDArray[np.int32]:
        """Return the bit mask of the tokens that may come next."""
        mask = np.frombuffer(self._matcher.compute_bitmask(), np.int32)
        self._check()
        return mask

    def accept(self, token: int) -> None:
        """Take the token that was drawn."""
        self._matcher.consume_token(token)
        self._check()

    def copy(self) -> "Matcher":
        """Return a matcher of the same grammar for another answer."""
        return Matcher(self._matcher.deep_copy())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise RequestError(
                f"the answer cannot be kept to its grammar: {self._matcher.get_error()}; "
                "ask for a simpler form"
            )


def _refusal(why: str, param: str) -> BadRequest:
    return BadRequest(f"{param}: an answer cannot be kept to this form: {why}; change it", param)


def json_of(schema: dict[str, Any] | bool) -> str:
    """Return the rule of a JSON schema, to be put into a grammar."""
    table = schema if isinstance(schema, dict) else {} if schema else {"not": {}}
    return f"%json {json.dumps(closed(table) | {'x-guidance': WHITESPACE})}"


def literal(text: str) -> str:
    """Return a text as a rule."""
    return json.dumps(text)
