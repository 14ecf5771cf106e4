"""A dense model to convert."""

from pathlib import Path

import pytest

from tests import tiny


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.saved(tiny.llama(), tmp_path_factory.mktemp("model") / "dense")
