"""Documents of text to token shards, read and encoded once."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from moe.staging import refuse_existing
from pipelines.corpus.documents import Document, read_documents
from pipelines.corpus.fitting import Fitting
from pipelines.corpus.manifest import RowCounts, TokenManifest
from pipelines.corpus.tokenizer import DocumentTokenizer
from pipelines.corpus.units import Encoded, Unit, lot_of
from pipelines.corpus.writing import (
    Report,
    Source,
    TokenizeOptions,
    compare_vocabulary,
    write_shards,
)

__all__ = ["TokenizeOptions", "tokenize"]

_LOG = logging.getLogger(__name__)
_BATCH_CHARACTERS = 4_000_000


def tokenize(
    inputs: Sequence[Path],
    model: Path,
    to: Path,
    options: TokenizeOptions | None = None,
    report: Report = _LOG.info,
) -> TokenManifest:
    """Write the text of files and directories to ``to`` as token shards for a model."""
    options = options or TokenizeOptions()
    refuse_existing(to)
    tokenizer = DocumentTokenizer(model)
    reading = _Reading(tokenizer, options)
    units = reading.units(read_documents(inputs, report))
    source = Source(model, "text", "documents with text", None, reading.counts)
    manifest = write_shards(units, source, to, tokenizer, options, report)
    compare_vocabulary(tokenizer, manifest, model, report)
    return manifest


class _Reading:
    """Encodes documents, and cuts those that would not fit into a row where they stay whole."""

    def __init__(self, tokenizer: DocumentTokenizer, options: TokenizeOptions) -> None:
        self._tokenizer = tokenizer
        self._seed = options.seed
        self._read = 0
        self._odd: Counter[str] = Counter()
        self._fitting: Fitting | None = None
        if options.packing != "cut":
            self._fitting = Fitting(options.sequence_length, options.truncation)

    def units(self, documents: Iterable[Document]) -> Iterator[Unit]:
        """Yield a unit for each document that is kept."""
        for batch in _batches(documents):
            encoded = self._tokenizer.encode([document.text for document in batch])
            for document, tokens in zip(batch, encoded, strict=True):
                self._read += 1
                own: tuple[Encoded, ...] | str = (Encoded(tokens),)
                if self._fitting is not None:
                    own = self._fitting.fit([Encoded(tokens)])
                if isinstance(own, str):
                    self._odd[own] += 1
                else:
                    yield Unit(document.domain, own, lot_of(document.text, self._seed))

    def counts(self) -> RowCounts | None:
        """Return what became of the documents; None if they were cut into full rows."""
        if self._fitting is None:
            return None
        fitting = self._fitting
        return RowCounts(self._read, fitting.truncated, fitting.lost, dict(self._odd))


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Group documents: large enough for the threads of the library, small enough for memory."""
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
