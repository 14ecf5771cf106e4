"""Decodes tokens while they arrive: the pieces add up to the text of all tokens decoded at once."""

from collections.abc import Callable, Sequence

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

Decode = Callable[[Sequence[int]], str]


class Detokenizer:
    """Returns text as soon as later tokens cannot change it.

    The text of a token depends on its neighbours: a character may be spread over tokens, and a
    leading space is dropped. So each token is decoded together with the tokens of the last piece,
    and only the added text is returned. No text is returned while it ends within a character, or
    within a sequence of ``byte_tokens``, which must be decoded together. Silent tokens are skipped.
    """

    def __init__(
        self,
        decode: Decode,
        is_silent: Callable[[int], bool],
        byte_tokens: frozenset[int] = frozenset(),
    ) -> None:
        self._decode = decode
        self._is_silent = is_silent
        self._byte_tokens = byte_tokens
        self._window: list[int] = []
        self._given_tokens = 0
        self._given_text = ""

    def push(self, token: int) -> str:
        """Add a token; return the text that is now certain."""
        if self._is_silent(token):
            return ""
        self._window.append(token)
        if token in self._byte_tokens:
            return ""
        text = self._decode(self._window)
        if text.endswith(REPLACEMENT):
            return ""
        return self._give(text)

    def finish(self) -> str:
        """Return the remaining text at the end of the answer."""
        return self._give(self._decode(self._window))

    def _give(self, text: str) -> str:
        piece = text[len(self._given_text) :]
        if piece:
            self._window = self._window[self._given_tokens :]
            self._given_tokens = len(self._window)
            self._given_text = self._decode(self._window)
        return piece
