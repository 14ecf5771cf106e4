"""A served model for programs of other people, which are installed by ``make clients``."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.serving.limits import Limits
from tests import tiny, vocabularies
from tests.serving import Server, served

PROGRAMS = Path(".venv-clients/bin").absolute()


@pytest.fixture(scope="session")
def programs() -> Path:
    """The directory of the installed programs."""
    if not (PROGRAMS / "lm_eval").exists():
        pytest.skip("the clients are not installed; run make clients")
    return PROGRAMS


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    tokenizer = vocabularies.byte_level()
    sizes = {"vocab_size": tokenizer.get_vocab_size(), "bos_token_id": 0, "eos_token_id": 1}
    made = tiny.mixtral(**sizes, max_position_embeddings=1024)
    path = tiny.saved(made, tmp_path_factory.mktemp("clients"))
    vocabularies.save(tokenizer, path, vocabularies.HERMES)
    with served(path, Limits(idle_seconds=0.05)) as server:
        yield server
