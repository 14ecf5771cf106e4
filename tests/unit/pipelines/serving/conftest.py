from pathlib import Path

import pytest

from tests import tiny, vocabularies


@pytest.fixture(scope="session", params=["llama", "mixtral"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with a tokenizer, of each family."""
    tokenizer = vocabularies.byte_level()
    make = getattr(tiny, request.param)
    sizes = {"vocab_size": tokenizer.get_vocab_size(), "bos_token_id": 0, "eos_token_id": 1}
    path = tiny.saved(make(**sizes), tmp_path_factory.mktemp(request.param))
    return vocabularies.save(tokenizer, path)
