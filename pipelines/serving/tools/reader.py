"""Finds calls in a text that arrives in pieces."""

import json
from collections.abc import Collection, Iterator
from typing import Any, Protocol

from pipelines.serving.text.stops import StopFilter
from pipelines.serving.tools.calls import Call, Piece, call_of
from pipelines.serving.tools.style import BEGIN, END, Style


class Reader(Protocol):
    """Reads one answer."""

    def push(self, text: str) -> list[Piece]:
        """Take text; return what is certain: text to show, and whole calls."""

    def finish(self) -> list[Piece]:
        """Return the rest at the end of the answer."""


class TextReader:
    """Reads an answer without calls."""

    def push(self, text: str) -> list[Piece]:
        """Return the text as it is."""
        return [text] if text else []

    def finish(self) -> list[Piece]:
        """Return nothing: no text was held back."""
        return []


class TaggedReader:
    """Reads calls between tags; what stands there and is no call is shown as text."""

    def __init__(self) -> None:
        self._filter = StopFilter((BEGIN,))
        self._within: str | None = None
        self._called = False

    def push(self, text: str) -> list[Piece]:
        """Take text; return text before a call, and calls that are complete."""
        pieces: list[Piece] = []
        while text:
            if self._within is None:
                text = self._outside(text, pieces)
            else:
                text = self._inside(text, pieces)
        return pieces

    def finish(self) -> list[Piece]:
        """Return the rest; a call whose end is missing is a call if its JSON is complete."""
        if self._within is None:
            return self._shown(self._filter.finish())
        return [_parsed(self._within) or BEGIN + self._within]

    def _outside(self, text: str, pieces: list[Piece]) -> str:
        """Take text up to the next call; return the text after its tag."""
        held = self._filter.finish()
        shown, found = self._filter.push(held + text)
        pieces += self._shown(shown)
        if not found:
            return ""
        self._within = ""
        return (held + text)[len(shown) + len(BEGIN) :]

    def _inside(self, text: str, pieces: list[Piece]) -> str:
        """Take text of a call; return the text after its closing tag."""
        within = (self._within or "") + text
        body, tag, rest = within.partition(END)
        if not tag:
            self._within = within
            return ""
        call = _parsed(body)
        self._called |= call is not None
        pieces.append(call or BEGIN + body + END)
        self._within = None
        return rest

    def _shown(self, text: str) -> list[Piece]:
        """Return text that is not only the space between calls."""
        return [text] if text and not (self._called and text.isspace()) else []


class BareReader:
    """Reads an answer that is nothing but calls of ``names``; any other answer is text."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._held = ""
        self._text = False

    def push(self, text: str) -> list[Piece]:
        """Hold text back while it may be a call."""
        if self._text:
            return [text] if text else []
        self._held += text
        begun = self._held.lstrip()
        if not begun or begun.startswith(("{", "[")):
            return []
        self._text = True
        return [self._held]

    def finish(self) -> list[Piece]:
        """Return the calls, or the text that was held back and has none."""
        if self._text or not self._held:
            return []
        calls = list(_calls(self._held))
        if calls and all(call is not None and call.name in self._names for call in calls):
            return [call for call in calls if call is not None]
        return [self._held]


def reader_of(style: Style | None, names: Collection[str]) -> Reader:
    """Return the reader of an answer that may call functions of these names."""
    if style is None or not names:
        return TextReader()
    return TaggedReader() if style.kind == "tagged" else BareReader(names)


def _parsed(body: str) -> Call | None:
    try:
        return call_of(json.loads(body))
    except (ValueError, RecursionError):
        return None


def _calls(text: str) -> Iterator[Call | None]:
    """Yield the calls of a text, one after another or in lists; None for what is no call."""
    decoder, at = json.JSONDecoder(), 0
    while at < len(text):
        try:
            value, end = _decoded(decoder, text, at)
        except (ValueError, RecursionError):
            yield None
            return
        yield from map(call_of, value if isinstance(value, list) else [value])
        rest = text[end:].lstrip(" \n\t\r;")
        at = len(text) - len(rest)


def _decoded(decoder: json.JSONDecoder, text: str, at: int) -> tuple[Any, int]:
    start = len(text) - len(text[at:].lstrip())
    return decoder.raw_decode(text, start)
