"""The tokenizer of a model directory, to make prompts of known length and to count answers."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from moe.config.stand_ins import what_stands_for
from moe.errors import CheckpointError


class LoadTokenizer:
    """Texts to tokens and back; special tokens are left out of both."""

    def __init__(self, model: Path) -> None:
        path = model if model.is_file() else model / "tokenizer.json"
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # The library raises no narrower exception.
            raise CheckpointError(
                what_stands_for(path)
                or f"{path} is not a tokenizer ({error}); give the directory of a model that has "
                "tokenizer.json"
            ) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        added = self._tokenizer.get_added_tokens_decoder()
        known = set(self._tokenizer.get_vocab().values())
        self.ordinary: Sequence[int] = sorted(known - added.keys())
        """Ids of the tokens that text is made of."""

    def count(self, text: str) -> int:
        """Return the number of tokens of a text."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))
