"""The tokenizer of a model directory, as fast as the ``tokenizers`` library allows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from moe.config.end_tokens import end_tokens
from moe.config.json_file import read_json
from moe.config.stand_ins import what_stands_for
from moe.errors import CheckpointError
from pipelines.corpus.shard_writer import file_sha256


class DocumentTokenizer:
    """Turns documents into token ids; each ends with the model's end-of-sequence token.

    ``vocab_size`` is the number of ids of the tokenizer, ``embeddings`` the number of embeddings of
    the model; None if the directory holds no model.
    """

    def __init__(self, model: Path) -> None:
        path = model / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(
                f"{model} has no tokenizer.json; give a Hugging Face model directory, and where it "
                "has a slow tokenizer, save the fast one beside it"
            )
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # The library raises no narrower exception.
            raise CheckpointError(
                what_stands_for(path) or f"{path} is not a tokenizer: {error}"
            ) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.sha256 = file_sha256(path)
        self.vocab_size = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        self.embeddings = _embeddings(model)
        self.eos_token_id = self._end_of_sequence(model)

    def encode(self, texts: Sequence[str]) -> list[npt.NDArray[np.int32]]:
        """Return the ids of each text and its end token; no other special token is added."""
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [
            np.array([*encoding.ids, self.eos_token_id], dtype=np.int32) for encoding in encodings
        ]

    def _end_of_sequence(self, model: Path) -> int:
        """Return the first end token that the model names, else the end token of the tokenizer."""
        token_id: Any = next(iter(end_tokens(model)), None)
        if token_id is None:
            token = _table(model / "tokenizer_config.json").get("eos_token")
            content = token.get("content") if isinstance(token, dict) else token
            token_id = self._tokenizer.token_to_id(content) if isinstance(content, str) else None
        if not isinstance(token_id, int):
            raise CheckpointError(
                f"{model} names no end-of-sequence token; set eos_token_id in its config.json"
            )
        if not 0 <= token_id < self.vocab_size:
            raise CheckpointError(
                f"{model} names end-of-sequence token {token_id}, but its tokenizer has ids 0 to "
                f"{self.vocab_size - 1}; correct eos_token_id in its generation_config.json or "
                "config.json"
            )
        return token_id


def _embeddings(model: Path) -> int | None:
    found = _table(model / "config.json").get("vocab_size")
    return found if isinstance(found, int) else None


def _table(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
