"""Prompts from files and random ones: their forms, their lengths, what is refused."""

from pathlib import Path

import pytest
import transformers

from moe.errors import CheckpointError, ConfigError, DataError
from pipelines.loading.prompt import Prompt
from pipelines.loading.prompt_file import read_prompts
from pipelines.loading.prompt_source import PromptSource
from pipelines.loading.random_prompts import Lengths, random_ids, random_texts
from pipelines.loading.tokenizer import LoadTokenizer
from tests import vocabularies


@pytest.fixture(scope="module", params=["byte_level", "byte_fallback"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    return vocabularies.save(getattr(vocabularies, request.param)(), folder)


def test_lines_of_text_are_prompts(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("one\n\n  two words \n")
    assert read_prompts(file) == [Prompt(text="one"), Prompt(text="two words")]


def test_lines_of_json_are_prompts_ids_and_conversations(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(
        '{"prompt": "one", "max_tokens": 3}\n{"prompt": [1, 2]}\n'
        '{"messages": [{"role": "user", "content": "hi"}], "other": 1}\n'
    )
    found = read_prompts(file)
    messages = ({"role": "user", "content": "hi"},)
    assert found == [Prompt("one", max_tokens=3), Prompt(ids=(1, 2)), Prompt(messages=messages)]
    assert [prompt.completion() for prompt in found[:2]] == ["one", [1, 2]]
    assert found[0].conversation() == [{"role": "user", "content": "one"}]
    assert found[2].conversation() == list(messages)
    with pytest.raises(ConfigError, match="add --chat"):
        found[2].completion()
    with pytest.raises(ConfigError, match="leave --chat out"):
        found[1].conversation()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 1 is not JSON"),
        ("[]", "either prompt or messages"),
        ('{"text": "a"}', "either prompt or messages"),
        ('{"prompt": "a", "messages": []}', "either prompt or messages"),
        ('{"prompt": 1}', "neither a text nor a list of token ids"),
        ('{"prompt": ["a"]}', "neither a text nor a list of token ids"),
        ('{"messages": ["a"]}', "not a list of objects"),
        ('{"prompt": "a", "max_tokens": 0}', "give a whole number above 0"),
        ("", "holds no prompt"),
    ],
)
def test_what_is_no_prompt(line: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(f"{line}\n")
    with pytest.raises(DataError, match=said):
        read_prompts(file)


def test_random_texts_have_their_length_and_their_common_beginning(tokenizer: Path) -> None:
    oracle = transformers.AutoTokenizer.from_pretrained(tokenizer)
    prompts = random_texts(Lengths(40, 16), LoadTokenizer(tokenizer), 5, seed=3)
    ids = [oracle(prompt.text, add_special_tokens=False).input_ids for prompt in prompts]
    assert [len(each) for each in ids] == [40] * 5
    assert len({tuple(each[:16]) for each in ids}) == 1
    assert len({tuple(each[16:]) for each in ids}) == 5
    assert prompts == random_texts(Lengths(40, 16), LoadTokenizer(tokenizer), 5, seed=3)
    assert prompts != random_texts(Lengths(40, 16), LoadTokenizer(tokenizer), 5, seed=4)


def test_random_ids_have_their_length_and_their_common_beginning() -> None:
    found = [prompt.ids or () for prompt in random_ids(Lengths(40, 16), 1000, 5, seed=3)]
    assert {len(ids) for ids in found} == {40}
    assert len({ids[:16] for ids in found}) == 1
    assert len({ids[16:] for ids in found}) == 5
    assert all(0 <= token < 1000 for ids in found for token in ids)


def test_a_prompt_cannot_share_more_than_it_has() -> None:
    for tokens, shared in ((4, 5), (0, 0), (4, -1)):
        with pytest.raises(ConfigError, match="cannot share"):
            Lengths(tokens, shared)


def test_a_directory_without_a_tokenizer_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"give the directory of a model that has tokenizer"):
        LoadTokenizer(tmp_path)


def test_one_source_of_prompts_is_given(tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to ask"):
        PromptSource()
    with pytest.raises(ConfigError, match="give one of them"):
        PromptSource(tokenizer=LoadTokenizer(tokenizer), vocabulary=9)
    with pytest.raises(ConfigError, match="--shared-tokens is for random prompts"):
        PromptSource(file=tmp_path, shared_tokens=9)
    with pytest.raises(ConfigError, match="--vocabulary is 0"):
        PromptSource(vocabulary=0).prompts(3, 0)
    assert len(PromptSource(vocabulary=9).prompts(3, 0)) == 3
