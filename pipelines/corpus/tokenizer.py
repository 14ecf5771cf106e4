"""The tokenizer of a model directory, as fast as the ``tokenizers`` library allows."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from moe.errors import CheckpointError
from pipelines.corpus.packing import file_sha256


class DocumentTokenizer:
    """Turns documents into token ids, each ended by the model's end-of-sequence token."""

    def __init__(self, model: Path) -> None:
        path = model / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(
                f"{model} has no tokenizer.json; give a Hugging Face model directory, and where it "
                "has a slow tokenizer, save the fast one beside it"
            )
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise CheckpointError(f"{path} is not a tokenizer: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.sha256 = file_sha256(path)
        self.vocab_size = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        self.eos_token_id = self._end_of_sequence(model)

    def encode(self, texts: Sequence[str]) -> list[npt.NDArray[np.int32]]:
        """Return the ids of each text and its end; no other special token is added."""
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [
            np.array([*encoding.ids, self.eos_token_id], dtype=np.int32) for encoding in encodings
        ]

    def _end_of_sequence(self, model: Path) -> int:
        """Take the id that the model's configuration names first, else the tokenizer's token."""
        found = _read_json(model / "config.json").get("eos_token_id")
        token_id = found[0] if isinstance(found, list) and found else found
        if token_id is None:
            token = _read_json(model / "tokenizer_config.json").get("eos_token")
            content = token.get("content") if isinstance(token, dict) else token
            token_id = self._tokenizer.token_to_id(content) if isinstance(content, str) else None
        if not isinstance(token_id, int):
            raise CheckpointError(
                f"{model} names no end-of-sequence token; set eos_token_id in its config.json"
            )
        if not 0 <= token_id < self.vocab_size:
            raise CheckpointError(
                f"{model} names end-of-sequence token {token_id}, but its tokenizer has ids 0 to "
                f"{self.vocab_size - 1}; correct eos_token_id in its config.json"
            )
        return token_id


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} should hold a JSON object; found {type(value).__name__}")
    return value
