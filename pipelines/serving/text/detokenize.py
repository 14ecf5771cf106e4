"""Tokens to text while they arrive: the pieces add up to the text decoded at once."""

from collections.abc import Callable, Sequence

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

Decode = Callable[[Sequence[int]], str]


class Detokenizer:
    """Gives out text as soon as later tokens cannot change it.

    What a decoder makes of a token depends on its neighbours: a character may be spread over
    tokens, and a leading space is dropped. So each token is decoded together with the tokens of
    the last piece, and only what it adds is given out; not while it ends amid a character, nor in a
    run of ``byte_tokens``, which are judged as a whole. Silent tokens are passed over.
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
        """Take a token; return the text that is now certain."""
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
        """Return the text held back, now that nothing follows it."""
        return self._give(self._decode(self._window))

    def _give(self, text: str) -> str:
        piece = text[len(self._given_text) :]
        if piece:
            self._window = self._window[self._given_tokens :]
            self._given_tokens = len(self._window)
            self._given_text = self._decode(self._window)
        return piece
