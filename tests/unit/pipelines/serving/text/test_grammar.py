"""Grammars over tokens: whatever is drawn among the allowed ones fits, with either tokenizer."""

import json
import re
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moe.errors import RequestError
from pipelines.serving.refusals import BadRequest
from pipelines.serving.text.grammar import Grammars, Matcher, json_of, literal
from pipelines.serving.tools.reader import reader_of
from pipelines.serving.tools.style import BARE, LLAMA, TAGGED, Style, style_of
from tests import vocabularies
from tests.examples import examples

FAST = settings(max_examples=examples(25), suppress_health_check=list(HealthCheck))
END = 1
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"$ref": "#/$defs/b"}},
    "required": ["a", "b"],
    "additionalProperties": False,
    "$defs": {"b": {"enum": ["x", "né"]}},
}


@pytest.fixture(scope="module", params=["byte_level", "byte_fallback"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return getattr(vocabularies, request.param)()


@pytest.fixture(scope="module")
def grammars(tokenizer: Any) -> Grammars:
    return Grammars(tokenizer.to_str, frozenset({END}))


def drawn(matcher: Matcher, tokenizer: Any, seed: int, most: int = 600) -> str | None:
    """Return an answer drawn among the allowed tokens; None if it does not end."""
    random, tokens = np.random.default_rng(seed), []
    while not matcher.finished and len(tokens) < most:
        allowed = np.unpackbits(matcher.allowed().view(np.uint8), bitorder="little").nonzero()[0]
        assert len(allowed)
        token = int(random.choice(allowed))
        if token == END:
            return str(tokenizer.decode(tokens))
        tokens.append(token)
        matcher.accept(token)
    return str(tokenizer.decode(tokens)) if matcher.finished else None


@FAST
@given(seed=st.integers(0, 10**6))
def test_json_fits_its_schema(grammars: Grammars, tokenizer: Any, seed: int) -> None:
    found = drawn(grammars.matcher(f"start: {json_of(SCHEMA)}", "x"), tokenizer, seed)
    if found is not None:
        jsonschema.validate(json.loads(found), SCHEMA)


@FAST
@given(seed=st.integers(0, 10**6), style=st.sampled_from([TAGGED, BARE, LLAMA]))
def test_calls_are_read_as_they_are_forced(
    grammars: Grammars, tokenizer: Any, seed: int, style: Style
) -> None:
    nothing = {"type": "object", "properties": {}, "additionalProperties": False}
    grammar = style.grammar([("first", SCHEMA), ('se"cond', nothing)], several=True)
    found = drawn(grammars.matcher(grammar, "x"), tokenizer, seed)
    if found is None:
        return
    reader = reader_of(style, ("first", 'se"cond'))
    calls = [*reader.push(found), *reader.finish()]
    assert calls
    for call in calls:
        assert not isinstance(call, str)
        arguments = json.loads(call.arguments)
        jsonschema.validate(arguments, SCHEMA if call.name == "first" else nothing)


def test_copies_go_their_own_ways(grammars: Grammars, tokenizer: Any) -> None:
    matcher = grammars.matcher("start: /[a-z]{9}/", "x")
    copies = [matcher.copy() for _ in range(4)]
    found = [drawn(copy, tokenizer, seed) for seed, copy in enumerate(copies)]
    assert len(set(found)) == 4
    assert all(re.fullmatch("[a-z]{9}", each or "") for each in found)
    assert not matcher.finished


def test_what_does_not_fit_is_an_error(grammars: Grammars, tokenizer: Any) -> None:
    matcher = grammars.matcher(f"start: {literal('fox')}", "x")
    with pytest.raises(RequestError, match="cannot be kept to its grammar"):
        matcher.accept(tokenizer.token_to_id("g"))
    with pytest.raises(BadRequest, match=r"x: an answer cannot be kept to this form: .*; change"):
        grammars.matcher("start: (", "x")


@pytest.mark.parametrize(
    ("template", "silent", "style"),
    [
        ("{{ messages }}", False, None),
        (vocabularies.TEMPLATE, False, None),
        (vocabularies.HERMES, False, TAGGED),
        (vocabularies.HERMES, True, BARE),
        (vocabularies.LLAMA, False, LLAMA),
    ],
)
def test_the_template_tells_the_style(template: str, silent: bool, style: Style | None) -> None:
    assert style_of(template, silent) == style
