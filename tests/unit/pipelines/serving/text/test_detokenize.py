"""Streamed text against the text decoded at once, for any tokens, also those that spell no text."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.serving.text.text import Text
from tests import vocabularies
from tests.examples import examples

MANY = settings(max_examples=examples(300), suppress_health_check=list(HealthCheck))
KINDS = {"byte level": vocabularies.byte_level, "byte fallback": vocabularies.byte_fallback}


@pytest.fixture(scope="module", params=KINDS)
def text(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Text:
    path = tmp_path_factory.mktemp("tokenizer")
    (path / "config.json").write_text('{"model_type": "llama", "eos_token_id": 1}')
    return Text.open(vocabularies.save(KINDS[request.param](), path))


def pieces(text: Text, tokens: list[int]) -> list[str]:
    detokenizer = text.detokenizer()
    return [*map(detokenizer.push, tokens), detokenizer.finish()]


@MANY
@given(tokens=st.lists(st.integers(0, 330), max_size=40))
def test_pieces_of_any_tokens_add_up(text: Text, tokens: list[int]) -> None:
    assert "".join(pieces(text, tokens)) == text.decode(tokens)


@MANY
@given(original=st.text(st.characters(codec="utf-8", exclude_characters="\u2581"), max_size=30))
def test_no_piece_shows_half_a_character(text: Text, original: str) -> None:
    shown = pieces(text, list(text.encode(original)))
    assert "".join(shown) == text.decode(text.encode(original)) == original
    assert "\N{REPLACEMENT CHARACTER}" in original or not any(
        "\N{REPLACEMENT CHARACTER}" in piece for piece in shown
    )


@MANY
@given(tokens=st.lists(st.integers(5, 330), max_size=30))
def test_bytes_of_tokens_spell_the_text(text: Text, tokens: list[int]) -> None:
    spelled = b"".join(map(text.token_bytes, tokens))
    try:
        expected = spelled.decode()
    except UnicodeDecodeError:
        return
    first_space = expected.removeprefix(" ") if text.decode([*text.encode("a")]) else expected
    assert text.decode(tokens) in (expected, first_space)


def test_words_come_at_once(text: Text) -> None:
    tokens = list(text.encode("the dog"))
    assert all(pieces(text, tokens)[1:-1])
    assert pieces(text, tokens)[-1] == ""


def test_end_tokens_are_silent(text: Text) -> None:
    (the,) = {*text.encode(" the")[:1]}
    assert "".join(pieces(text, [0, the, 1, the])) == text.decode([the, the])
