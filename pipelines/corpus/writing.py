"""Encoded documents to a directory of token shards: split, laid into rows, published atomically."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from moe.config.run import DataKind
from moe.errors import DataError
from moe.staging import refuse_existing, staged
from pipelines.corpus.manifest import (
    Chained,
    DomainCount,
    Packing,
    Rendering,
    RowCounts,
    SplitManifest,
    TokenManifest,
    Truncation,
    write_manifest,
)
from pipelines.corpus.packing import rows_of
from pipelines.corpus.shard_writer import ShardWriter
from pipelines.corpus.splitting import split
from pipelines.corpus.tokenizer import DocumentTokenizer
from pipelines.corpus.units import Entry, FlatFiles, Unit

Report = Callable[[str], None]

_REPORT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class TokenizeOptions:
    """``held_out_fraction`` is the fraction of documents of each domain that is held out. With
    ``similar``, training documents are put beside similar ones (``pipelines.corpus.similarity``),
    which has an effect where they are cut; ``truncation`` has one where they stay whole.
    """

    sequence_length: int = 512
    held_out_fraction: float = 0.05
    seed: int = 0
    rows_per_shard: int = 65_536
    similar: bool = False
    packing: Packing = "cut"
    truncation: Truncation = "right"

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
        if self.similar and self.packing != "cut":
            raise DataError(
                f"documents that are {self.packing} do not lie in their order, so --similar has no "
                "effect on them; remove it, or choose --packing cut"
            )


@dataclass(frozen=True, slots=True)
class Source:
    """What is written: its kind and how it was rendered; ``counts`` is asked when all is read.

    ``noun`` names what a unit is; ``model`` is that for which it is written.
    """

    model: Path
    kind: DataKind
    noun: str
    rendering: Rendering | None
    counts: Callable[[], RowCounts | None]


def write_shards(
    units: Iterable[Unit],
    source: Source,
    to: Path,
    tokenizer: DocumentTokenizer,
    options: TokenizeOptions,
    report: Report,
) -> TokenManifest:
    """Write all units to a new directory; it appears whole or not at all."""
    refuse_existing(to)
    with staged(to) as partial:
        flat = FlatFiles(partial, marked=options.packing != "cut")
        _read(flat, units, source.noun, report)
        train, held_out = split(flat.entries, options.held_out_fraction, source.noun)
        how: Chained | None = None
        if options.similar:
            train, how = _beside_similar(train, flat, source.model, report)
        writing = _Writing(partial, flat, tokenizer.eos_token_id, options)
        manifest = TokenManifest(
            sequence_length=options.sequence_length,
            vocab_size=tokenizer.vocab_size,
            eos_token_id=tokenizer.eos_token_id,
            tokenizer_sha256=tokenizer.sha256,
            seed=options.seed,
            held_out_fraction=options.held_out_fraction,
            train=writing.split("train", train),
            held_out=writing.split("held_out", held_out),
            chained=how,
            kind=source.kind,
            packing=options.packing,
            truncation=None if options.packing == "cut" else options.truncation,
            rendering=source.rendering,
            input=source.counts(),
        )
        flat.remove()
        write_manifest(partial, manifest)
    report(
        f"wrote {to}: {manifest.train.rows:,} training rows and {manifest.held_out.rows:,} "
        f"held-out rows of {options.sequence_length} tokens"
    )
    return manifest


def compare_vocabulary(
    tokenizer: DocumentTokenizer, manifest: TokenManifest, model: Path, report: Report
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


def _beside_similar(
    entries: list[Entry], flat: FlatFiles, model: Path, report: Report
) -> tuple[list[Entry], Chained]:
    """Return the entries in the order of a chain, and what the manifest says of it."""
    from pipelines.corpus.similarity import HOW, Embedder, chained  # torch is for this alone

    documents = [tokens for _, tokens, _ in flat.read(entries)]
    return [entries[number] for number in chained(documents, Embedder(model), report)], HOW


def _read(flat: FlatFiles, units: Iterable[Unit], noun: str, report: Report) -> None:
    """Write all units to the flat files, and tell how far it is."""
    written, reported = 0, monotonic()
    for written in flat.write(units):
        if monotonic() - reported > _REPORT_SECONDS:
            reported = monotonic()
            report(f"{len(flat.entries):,} {noun}, {written:,} tokens")
    report(f"{len(flat.entries):,} {noun}, {written:,} tokens in all")


@dataclass(frozen=True, slots=True)
class _Writing:
    """A directory that is being written; ``filler`` is the token of padding."""

    directory: Path
    flat: FlatFiles
    filler: int
    options: TokenizeOptions

    def split(self, name: str, entries: Sequence[Entry]) -> SplitManifest:
        """Write the shards of one split."""
        options, domains = self.options, self.flat.domains
        length, packing = options.sequence_length, options.packing
        writer = ShardWriter(self.directory, name, domains, length, options.rows_per_shard, packing)
        written = writer.write(rows_of(self.flat, entries, length, packing, self.filler))
        tokens = sum(entry.tokens for entry in entries)
        rows = sum(shard.rows for shard in written.shards)
        if not rows:
            raise DataError(
                f"the {name} documents ({len(entries)}) hold {tokens} tokens, less than one row "
                f"of {length}; give more text, choose shorter rows or another held-out fraction"
            )
        documents_of_domain, tokens_of_domain = Counter[int](), Counter[int]()
        for entry in entries:
            documents_of_domain[entry.domain] += 1
            tokens_of_domain[entry.domain] += entry.tokens
        counts = {
            domains[each]: DomainCount(count, tokens_of_domain[each], written.rows_of_domain[each])
            for each, count in sorted(documents_of_domain.items())
        }
        tail = tokens - rows * length if packing == "cut" else 0
        return SplitManifest(
            len(entries), tokens, rows, tail, counts, written.shards, written.counted
        )
