"""The tokenizer of a directory against transformers; what is said where something is missing."""

import json
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

FAST = settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
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
    assert text.chat(TALK) == tuple(expected)


def test_the_template_may_refuse(text: Text) -> None:
    with pytest.raises(BadRequest, match="refuses these messages: a conversation begins with"):
        text.chat([{"role": "assistant", "content": "hello"}])


def test_a_model_without_template_cannot_chat(tmp_path: Path) -> None:
    directory(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(BadRequest, match="no chat template; use /v1/completions"):
        Text.open(tmp_path).chat(TALK)


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


def test_parts_of_characters_are_told_apart(text: Text) -> None:
    shown = [text.token_text(token) for token in text.encode("𝄞")]
    assert shown == ["\\xf0", "\\x9d", "\\x84", "\\x9e"]
    assert text.token_bytes(10**6) == b""
    assert text.token_text(1) == "</s>"


def test_missing_and_damaged_tokenizers_are_clear(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json, so text cannot be served"):
        Text.open(tmp_path)
    directory(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Text.open(tmp_path)
