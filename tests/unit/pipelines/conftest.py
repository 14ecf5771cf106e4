"""Models and texts that the tests of this folder share."""

import json
import os
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from pipelines.fetching.smollm2 import fetch_smollm2

WORDS = tuple(f"w{number}" for number in range(30))


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tokenizer of 32 whole words; id 0 is the end, 1 the unknown."""
    vocabulary = {word: number for number, word in enumerate(("<end>", "<unknown>", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.enable_truncation(4)  # must not matter
    directory = tmp_path_factory.mktemp("small-model")
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "config.json").write_text(json.dumps({"eos_token_id": [0, 1]}))
    return directory


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct, fetched once a machine."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return fetch_smollm2(cache / "raymoe-tests" / "smollm2")
