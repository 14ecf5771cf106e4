"""The bytes of text that each token of a tokenizer stands for."""

from collections.abc import Mapping
from typing import Any


class TokenBytes:
    """Of a tokenizer of the ``tokenizers`` library, with its ``added`` tokens by number.

    ``single`` are the tokens that stand for one byte, if the decoder joins them.
    """

    def __init__(self, backend: Any, added: Mapping[int, Any]) -> None:
        self._backend = backend
        self._added = {number: token.content for number, token in added.items()}
        self._special = frozenset(number for number, token in added.items() if token.special)
        self._byte_level = _gives(backend.decoder, "\u0120", " ")
        self.single = self._fallback()

    def of(self, token: int) -> bytes:
        """Return the bytes a token stands for, which may be a part of a character."""
        name = self._backend.id_to_token(token)
        if name is None:
            return b""
        if token in self._added:
            return str(name).encode()
        if token in self.single:
            return bytes([int(name[3:5], 16)])
        if self._byte_level:
            return bytes(_BYTE_OF.get(character, 0x3F) for character in name)
        return str(name).replace("\u2581", " ").encode()

    def silent(self, token: int) -> bool:
        """Return whether a token has no text: a special token, or padding of the vocabulary."""
        return token in self._special or self._backend.id_to_token(token) is None

    @property
    def special(self) -> frozenset[str]:
        """The texts that are read as special tokens."""
        return frozenset(self._added[number] for number in self._special)

    def hides(self, text: str) -> bool:
        """Return whether a text is a special token."""
        return text in self.special

    def _fallback(self) -> frozenset[int]:
        if not _gives(self._backend.decoder, "<0x41>", "A"):
            return frozenset()
        numbers = (self._backend.token_to_id(f"<0x{byte:02X}>") for byte in range(256))
        return frozenset(number for number in numbers if number is not None)


def _gives(decoder: Any, token: str, text: str) -> bool:
    """Test how a decoder treats a token; the first token of a text may be special."""
    return decoder is not None and str(decoder.decode(["x", token])) == f"x{text}"


def _byte_alphabet() -> dict[str, int]:
    """Return the byte behind each character of a byte-level vocabulary.

    Printable Latin-1 characters stand for themselves; the other bytes, in order, for the characters
    from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(0x100 + place): byte for place, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
