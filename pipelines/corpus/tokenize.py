"""Documents to token shards: read and encode once, split, pack, publish atomically.

Token ids first go to one flat file, with an index in memory of about 100 bytes per document. The
split then sees all documents at once, and memory stays small for a corpus of any size.
"""

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moe.errors import DataError
from moe.staging import refuse_existing, staged
from pipelines.corpus.documents import Document, read_documents
from pipelines.corpus.manifest import (
    Chained,
    DomainCount,
    SplitManifest,
    TokenManifest,
    write_manifest,
)
from pipelines.corpus.packing import ShardWriter, Tokens, pack
from pipelines.corpus.tokenizer import DocumentTokenizer

_LOG = logging.getLogger(__name__)
_BATCH_CHARACTERS = 4_000_000
_REPORT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class TokenizeOptions:
    """``held_out_fraction`` is the fraction of documents of each domain that is held out. With
    ``similar``, training documents are put beside similar ones (``pipelines.corpus.similarity``).
    """

    sequence_length: int = 512
    held_out_fraction: float = 0.05
    seed: int = 0
    rows_per_shard: int = 65_536
    similar: bool = False

    def __post_init__(self) -> None:
        if self.sequence_length < 2:
            raise DataError(f"sequence length is {self.sequence_length}; it must be at least 2")
        if not 0 < self.held_out_fraction < 1:
            raise DataError(
                f"held-out fraction is {self.held_out_fraction}; choose one between 0 and 1"
            )
        if self.seed < 0:
            raise DataError(f"seed is {self.seed}; it must be at least 0")
        if self.rows_per_shard < 1:
            raise DataError(f"rows per shard is {self.rows_per_shard}; it must be at least 1")


@dataclass(frozen=True, slots=True)
class _Entry:
    """One document in the flat file: its start, length and domain, and its random lot."""

    start: int
    tokens: int
    domain: int
    lot: int


def tokenize(
    inputs: Sequence[Path],
    model: Path,
    to: Path,
    options: TokenizeOptions | None = None,
    report: Callable[[str], None] = _LOG.info,
) -> TokenManifest:
    """Write the text of files and directories to ``to`` as token shards for a model."""
    options = options or TokenizeOptions()
    refuse_existing(to)
    tokenizer = DocumentTokenizer(model)
    with staged(to) as partial:
        flat = partial / "tokens.bin"
        documents = read_documents(inputs, report)
        entries, domains = _encode(documents, tokenizer, options.seed, flat, report)
        train, held_out = _split(entries, options)
        how: Chained | None = None
        if options.similar:
            train, how = _beside_similar(train, flat, model, report)
        manifest = TokenManifest(
            sequence_length=options.sequence_length,
            vocab_size=tokenizer.vocab_size,
            eos_token_id=tokenizer.eos_token_id,
            tokenizer_sha256=tokenizer.sha256,
            seed=options.seed,
            held_out_fraction=options.held_out_fraction,
            chained=how,
            train=_write_split(_writer(partial, "train", domains, options), train, flat),
            held_out=_write_split(_writer(partial, "held_out", domains, options), held_out, flat),
        )
        flat.unlink()
        write_manifest(partial, manifest)
    report(
        f"wrote {to}: {manifest.train.rows:,} training rows and {manifest.held_out.rows:,} "
        f"held-out rows of {options.sequence_length} tokens"
    )
    _compare(tokenizer, manifest, model, report)
    return manifest


def _compare(
    tokenizer: DocumentTokenizer,
    manifest: TokenManifest,
    model: Path,
    report: Callable[[str], None],
) -> None:
    """Report whether the tokenizer has ids without embedding in the model, and whether the text
    uses them.

    The shards are complete in either case; a model with more embeddings can read them.
    """
    embeddings = tokenizer.embeddings
    if embeddings is None or tokenizer.vocab_size <= embeddings:
        return
    shards = (*manifest.train.shards, *manifest.held_out.shards)
    largest = max(shard.largest_id or 0 for shard in shards)
    finding = (
        f"the tokenizer of {model} has ids up to {tokenizer.vocab_size - 1}, the model takes ids "
        f"up to {embeddings - 1}"
    )
    if largest < embeddings:
        report(f"{finding}; the text uses none above {largest}")
    else:
        report(
            f"caution: {finding}, and the text uses ids up to {largest}, so the model cannot be "
            "trained or evaluated on it; take the tokenizer that the model was trained with, or "
            "give the model more embeddings"
        )


def _encode(
    documents: Iterable[Document],
    tokenizer: DocumentTokenizer,
    seed: int,
    flat: Path,
    report: Callable[[str], None],
) -> tuple[list[_Entry], list[str]]:
    """Write the ids of all documents to the flat file; return its index and the names of the
    domains.
    """
    entries: list[_Entry] = []
    numbers: dict[str, int] = {}
    written, reported = 0, time.monotonic()
    with flat.open("wb") as file:
        for batch in _batches(documents):
            encoded = tokenizer.encode([document.text for document in batch])
            for document, tokens in zip(batch, encoded, strict=True):
                domain = numbers.setdefault(document.domain, len(numbers))
                entries.append(_Entry(written, len(tokens), domain, _lot(document.text, seed)))
                file.write(tokens.tobytes())
                written += len(tokens)
            if time.monotonic() - reported > _REPORT_SECONDS:
                reported = time.monotonic()
                report(f"{len(entries):,} documents, {written:,} tokens")
    report(f"{len(entries):,} documents, {written:,} tokens in all")
    return entries, list(numbers)


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


def _lot(text: str, seed: int) -> int:
    digest = hashlib.blake2b(f"{seed}:{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _split(entries: list[_Entry], options: TokenizeOptions) -> tuple[list[_Entry], list[_Entry]]:
    """Hold out the documents with the lowest lots in each domain; at least one, never all.

    A lot depends only on the text and the seed, so additional documents change the split of few
    others.
    """
    if len(entries) < 2:
        raise DataError(
            f"found {len(entries)} documents with text; training and held-out need one each; "
            "give more documents, or split the file into several"
        )
    by_domain: dict[int, list[_Entry]] = {}
    for entry in sorted(entries, key=lambda entry: (entry.lot, entry.start)):
        by_domain.setdefault(entry.domain, []).append(entry)
    chosen: set[int] = set()
    for members in by_domain.values():
        wanted = max(1, round(options.held_out_fraction * len(members)))
        chosen.update(entry.start for entry in members[: min(wanted, len(members) - 1)])
    if not chosen:  # every domain is a single document
        chosen.add(min(entries, key=lambda entry: (entry.lot, entry.start)).start)
    train = [entry for entry in entries if entry.start not in chosen]
    return train, [entry for entry in entries if entry.start in chosen]


def _beside_similar(
    entries: list[_Entry], flat: Path, model: Path, report: Callable[[str], None]
) -> tuple[list[_Entry], Chained]:
    """Return the entries in the order of a chain, and what the manifest says of it."""
    from pipelines.corpus.similarity import HOW, Embedder, chained  # torch is for this alone

    documents = [tokens for tokens, _ in _tokens_of(entries, flat)]
    return [entries[number] for number in chained(documents, Embedder(model), report)], HOW


def _writer(
    directory: Path, name: str, domains: list[str], options: TokenizeOptions
) -> ShardWriter:
    return ShardWriter(directory, name, domains, options.sequence_length, options.rows_per_shard)


def _write_split(writer: ShardWriter, entries: list[_Entry], flat: Path) -> SplitManifest:
    shards, rows_of_domain = writer.write(pack(_tokens_of(entries, flat), writer.length))
    tokens = sum(entry.tokens for entry in entries)
    rows = sum(shard.rows for shard in shards)
    if not rows:
        raise DataError(
            f"the {writer.name} documents ({len(entries)}) hold {tokens} tokens, less than one row "
            f"of {writer.length}; give more text, choose shorter rows or another held-out fraction"
        )
    documents_of_domain, tokens_of_domain = Counter[int](), Counter[int]()
    for entry in entries:
        documents_of_domain[entry.domain] += 1
        tokens_of_domain[entry.domain] += entry.tokens
    counts = {
        writer.domains[number]: DomainCount(count, tokens_of_domain[number], rows_of_domain[number])
        for number, count in sorted(documents_of_domain.items())
    }
    tail = tokens - rows * writer.length
    return SplitManifest(len(entries), tokens, rows, tail, counts, shards)


def _tokens_of(entries: list[_Entry], flat: Path) -> Iterator[tuple[Tokens, int]]:
    mapped = np.memmap(flat, dtype=np.int32, mode="r")
    for entry in entries:
        yield mapped[entry.start : entry.start + entry.tokens], entry.domain
