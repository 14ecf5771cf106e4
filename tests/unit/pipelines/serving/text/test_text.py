"""The tokenizer of a directory against transformers; what is said where something is missing."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moe.errors import CheckpointError
from pipelines.serving.refusals import BadRequest
from pipelines.serving.text.text import Text
from tests import vocabularies
from tests.examples import examples

FAST = settings(max_examples=examples(50), suppress_health_check=list(HealthCheck))
TALK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "naïve 🙂?"}]


def directory(path: Path, config: dict[str, Any] | None = None) -> Path:
    (path / "config.json").write_text(json.dumps({"model_type": "llama"} | (config or {})))
    return vocabularies.save(vocabularies.byte_level(), path)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return directory(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def text(model: Path) -> Text:
    return Text.open(model)


@FAST
@given(prompt=st.text(st.characters(codec="utf-8"), max_size=40))
def test_prompts_and_answers_equal_transformers(model: Path, text: Text, prompt: str) -> None:
    oracle = transformers.AutoTokenizer.from_pretrained(model)
    tokens = oracle(prompt)["input_ids"]
    assert text.encode(prompt) == tuple(tokens)
    assert text.decode(tokens) == oracle.decode(
        tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )


def test_conversations_equal_transformers(model: Path, text: Text) -> None:
    oracle = transformers.AutoTokenizer.from_pretrained(model)
    expected = oracle.apply_chat_template(TALK, add_generation_prompt=True, return_dict=False)
    assert text.encode(text.conversation(TALK), special=False) == tuple(expected)


def test_the_template_may_refuse(text: Text) -> None:
    with pytest.raises(BadRequest, match="refuses these messages: a conversation begins with"):
        text.conversation([{"role": "assistant", "content": "hello"}])


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ messages[0]['content'] + 1 }}", "TypeError: "),
        ("{{ 1 / (messages|length - 2) }}", "ZeroDivisionError: division by zero"),
        ("{% for m in messages[::0] %}{{ m }}{% endfor %}", "ValueError: slice step"),
        ("{{ messages[0].nothing.more }}", "has no attribute 'nothing'"),
        ("{% if %}", "Expected an expression"),
        ("{{ ''.__class__.__mro__ }}", "access to attribute '__class__'"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError: "),
    ],
)
@pytest.mark.parametrize("own_file", [True, False])
def test_a_template_that_fails_is_named(
    template: str, said: str, own_file: bool, tmp_path: Path
) -> None:
    directory(tmp_path)
    name = "chat_template.jinja" if own_file else "chat_template of tokenizer_config.json"
    if own_file:
        (tmp_path / "chat_template.jinja").write_text(template)
    else:
        (tmp_path / "chat_template.jinja").unlink()
        file = tmp_path / "tokenizer_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": template}))
    with pytest.raises(BadRequest) as caught:
        Text.open(tmp_path).conversation(TALK)
    assert str(caught.value).startswith(
        f"the model's chat template ({name}) refuses these messages: "
    )
    assert said in str(caught.value)


def test_a_model_without_template_cannot_chat(tmp_path: Path) -> None:
    directory(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(BadRequest, match="no chat template; use /v1/completions"):
        Text.open(tmp_path).conversation(TALK)


@pytest.mark.parametrize(
    ("config", "generation", "eos"),
    [
        ({}, None, {1}),
        ({"eos_token_id": 7}, None, {1, 7}),
        ({"eos_token_id": [7, 8]}, None, {1, 7, 8}),
        ({"eos_token_id": 7}, {"eos_token_id": [9]}, {1, 9}),
        ({"eos_token_id": 7}, {"temperature": 0.7}, {1, 7}),
    ],
)
def test_an_answer_ends_where_the_model_or_the_tokenizer_says(
    config: dict[str, Any], generation: dict[str, Any] | None, eos: set[int], tmp_path: Path
) -> None:
    directory(tmp_path, config)
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert Text.open(tmp_path).eos == eos


def test_a_family_transformers_does_not_know_is_no_hindrance(tmp_path: Path) -> None:
    text = Text.open(directory(tmp_path, {"model_type": "skywork_moe"}))
    assert text.decode(text.encode("the dog")) == "the dog"


def test_nothing_is_said_of_a_family_transformers_does_not_know(tmp_path: Path) -> None:
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    try:
        path = directory(tmp_path, {"model_type": "skywork_moe"})
        transformers.AutoTokenizer.from_pretrained(path)
        assert "skywork_moe" in said.pop()
        Text.open(path)
    finally:
        logger.removeHandler(handler)
    assert said == []


def test_the_fewest_tokens_of_a_prompt_are_never_more_than_its_tokens(text: Text) -> None:
    for prompt in ("", "a", "the dog " * 50, "naïve 🙂" * 9):
        assert text.fewest_tokens(prompt) <= len(text.encode(prompt))


def test_parts_of_characters_are_told_apart(text: Text) -> None:
    shown = [text.token_text(token) for token in text.encode("𝄞")]
    assert shown == ["\\xf0", "\\x9d", "\\x84", "\\x9e"]
    assert text.token_bytes(10**6) == b""
    assert text.token_text(1) == "</s>"


def test_missing_and_damaged_tokenizers_are_clear(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json, so text cannot be served"):
        Text.open(tmp_path)
    directory(tmp_path)
    (tmp_path / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is a Git LFS pointer"):
        Text.open(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Text.open(tmp_path)
