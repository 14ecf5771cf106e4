"""The manifest of a directory of token shards, as values and as JSON on disk."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from moe.config.run import DataKind
from moe.errors import DataError

MANIFEST = "manifest.json"
FORMAT = 2
OLDER = 1
"""The format without kinds: text, cut into full rows."""

Packing = Literal["cut", "packed", "padded"]
"""How documents lie in rows: one text after the other and cut; whole ones, as many as fit; one a
row. A document sees the end of the one before only where they are cut.
"""

Truncation = Literal["right", "left", "drop"]
"""What is done with a document longer than a row: its end goes, its beginning, or all of it."""

Answers = Literal["all", "last"]
"""Which answers of a conversation count in the loss."""

Split = Literal["train", "held_out"]
SPLITS: tuple[Split, Split] = ("train", "held_out")


@dataclass(frozen=True, slots=True)
class Shard:
    """One Arrow file. ``largest_id`` is the largest token in it.

    None if an older raymoe wrote the file without it.
    """

    name: str
    rows: int
    bytes: int
    sha256: str
    largest_id: int | None = None


@dataclass(frozen=True, slots=True)
class DomainCount:
    """The rows and tokens of one source directory in a split. A row belongs to the domain of its
    first token.
    """

    documents: int
    tokens: int
    rows: int


@dataclass(frozen=True, slots=True)
class SplitManifest:
    """One split. ``tokens`` counts ends of documents, and the ``tail_tokens`` that fill no row.

    ``counted_tokens`` are those whose prediction counts in the loss; None where all do. A pair of
    answers is one of the ``documents``.
    """

    documents: int
    tokens: int
    rows: int
    tail_tokens: int
    domains: Mapping[str, DomainCount]
    shards: tuple[Shard, ...]
    counted_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Rendering:
    """How messages became text: the name of the template, the SHA-256 of its source, and which
    answers count.
    """

    template: str
    sha256: str
    answers: Answers


@dataclass(frozen=True, slots=True)
class RowCounts:
    """What became of the rows of the input.

    ``read`` rows; ``odd`` ones by the reason for which they were left out; the rows that were
    ``truncated`` and the tokens that they ``lost``; other ``changes`` of rows that were kept.
    """

    read: int
    truncated: int = 0
    lost: int = 0
    odd: Mapping[str, int] = field(default_factory=dict)
    changes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chained:
    """How the training documents were put in order: by the cosine of an ``embedding`` of their
    first ``tokens``, in windows of so many documents (``pipelines.corpus.similarity``).
    """

    embedding: str
    tokens: int
    window: int


@dataclass(frozen=True, slots=True)
class TokenManifest:
    """Everything needed to read the shards and to check whether they match a model.

    ``chained`` says how training documents were put beside similar ones; None: they are in the
    order of their files.
    """

    sequence_length: int
    vocab_size: int
    eos_token_id: int
    tokenizer_sha256: str
    seed: int
    held_out_fraction: float
    train: SplitManifest
    held_out: SplitManifest
    chained: Chained | None = None
    kind: DataKind = "text"
    packing: Packing = "cut"
    truncation: Truncation | None = None
    rendering: Rendering | None = None
    input: RowCounts | None = None

    def split(self, name: Split) -> SplitManifest:
        """Return one split by name."""
        return self.train if name == "train" else self.held_out


def write_manifest(directory: Path, manifest: TokenManifest) -> None:
    """Write the manifest, which is the last file of a directory of shards."""
    text = json.dumps({"format": FORMAT, **asdict(manifest)}, indent=2)
    (directory / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_manifest(directory: Path) -> TokenManifest:
    """Read the manifest of a directory of shards; DataError if it is missing or broken."""
    path = directory / MANIFEST
    remedy = "make it with 'raymoe tokenize'"
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{directory} holds no token shards: no {MANIFEST}; {remedy}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}; {remedy} again") from error
    try:
        found = table.pop("format")
        if found not in (OLDER, FORMAT):
            raise DataError(
                f"{path} has format {found}; this raymoe reads {OLDER} and {FORMAT}; {remedy} again"
            )
        train, held_out = _split(table.pop("train")), _split(table.pop("held_out"))
        rendering, counts = table.pop("rendering", None), table.pop("input", None)
        similar = table.pop("chained", None)
        return TokenManifest(
            train=train,
            held_out=held_out,
            chained=None if similar is None else Chained(**similar),
            rendering=None if rendering is None else Rendering(**rendering),
            input=None if counts is None else RowCounts(**counts),
            **table,
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{path} is not a manifest of token shards ({error}); {remedy}") from error


def _split(table: dict[str, Any]) -> SplitManifest:
    domains = {name: DomainCount(**count) for name, count in table.pop("domains").items()}
    shards = tuple(Shard(**shard) for shard in table.pop("shards"))
    return SplitManifest(domains=domains, shards=shards, **table)
