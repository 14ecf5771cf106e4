"""Stop texts in a stream: found across token boundaries, never shown, not even in part."""

from collections.abc import Sequence


class StopFilter:
    """Passes text on, except an end that may be the beginning of a stop text.

    Of several stop texts, the one that is complete first ends the answer, for any division of the
    text into pieces; of stop texts complete at the same character, the longest.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def push(self, piece: str) -> tuple[str, bool]:
        """Return the text that is safe to show, and whether a stop text ended the answer."""
        text = self._held + piece
        start = self._first_stop(text)
        if start is not None:
            self._held = ""
            return text[:start], True
        safe = len(text) - self._possible_start(text)
        self._held = text[safe:]
        return text[:safe], False

    def finish(self) -> str:
        """Return the remaining text at the end of the answer."""
        text, self._held = self._held, ""
        return text

    def _first_stop(self, text: str) -> int | None:
        found = ((text.find(stop), len(stop)) for stop in self._stops)
        ends = [(start + length, start) for start, length in found if start >= 0]
        return min(ends)[1] if ends else None

    def _possible_start(self, text: str) -> int:
        """Return the length of the longest end of the text that is a beginning of a stop text."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
