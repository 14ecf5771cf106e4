"""How many bytes of text tokens stand for."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pipelines.corpus.inputs import TOKENIZER
from pipelines.serving.text.token_bytes import TokenBytes


def byte_sizes(model: Path, tokens: int) -> NDArray[np.int64] | None:
    """Return the bytes of each of so many token numbers; None for a model without a tokenizer.

    A special token, such as the end of a document, has none.
    """
    file = model / TOKENIZER
    if not file.is_file():
        return None
    backend = Tokenizer.from_file(str(file))
    found = TokenBytes(backend, backend.get_added_tokens_decoder())
    sizes = (0 if found.silent(token) else len(found.of(token)) for token in range(tokens))
    return np.fromiter(sizes, np.int64, tokens)
