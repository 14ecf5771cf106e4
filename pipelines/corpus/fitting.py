"""Documents cut to the length of a row, where they are laid into rows whole."""

from collections.abc import Sequence

from pipelines.corpus.manifest import Truncation
from pipelines.corpus.units import Encoded

TOO_LONG = "longer than a row"
NOTHING_COUNTS = "no token that counts within a row"


class Fitting:
    """Cuts what is too long: ``truncated`` units, by ``lost`` tokens in all."""

    def __init__(self, length: int, truncation: Truncation) -> None:
        self.truncated = self.lost = 0
        self._length = length
        self._truncation = truncation

    def fit(self, documents: Sequence[Encoded]) -> tuple[Encoded, ...] | str:
        """Return the documents of a unit, which fit into a row together, or why it is left out.

        If a pair is too long, the longer one is cut, down to half a row; then both are.
        """
        sizes = [len(document.tokens) for document in documents]
        fits = sum(sizes) <= self._length
        if not fits and self._truncation == "drop":
            return TOO_LONG
        shortest = min(sizes)
        share = self._length // len(sizes)
        limit = self._length if len(sizes) == 1 else max(share, self._length - shortest)
        found = tuple(self._cut(document, limit) for document in documents)
        if not all(document.predictions for document in found):
            return NOTHING_COUNTS
        self.truncated += not fits
        self.lost += sum(sizes) - sum(len(document.tokens) for document in found)
        return found

    def _cut(self, document: Encoded, limit: int) -> Encoded:
        size = len(document.tokens)
        if size <= limit:
            return document
        kept = slice(0, limit) if self._truncation == "right" else slice(size - limit, size)
        counted = None if document.counted is None else document.counted[kept]
        return Encoded(document.tokens[kept], counted)
