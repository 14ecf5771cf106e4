"""The manifest of a directory of token shards, as values and as JSON on disk."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from moe.errors import DataError

MANIFEST = "manifest.json"
FORMAT = 1

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
    """One split. ``tokens`` counts ends of documents, and the ``tail_tokens`` that fill no row."""

    documents: int
    tokens: int
    rows: int
    tail_tokens: int
    domains: Mapping[str, DomainCount]
    shards: tuple[Shard, ...]


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
        if found != FORMAT:
            raise DataError(
                f"{path} has format {found}; this raymoe reads {FORMAT}; {remedy} again"
            )
        train, held_out = _split(table.pop("train")), _split(table.pop("held_out"))
        similar = table.pop("chained", None)
        chained = None if similar is None else Chained(**similar)
        return TokenManifest(train=train, held_out=held_out, chained=chained, **table)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{path} is not a manifest of token shards ({error}); {remedy}") from error


def _split(table: dict[str, Any]) -> SplitManifest:
    domains = {name: DomainCount(**count) for name, count in table.pop("domains").items()}
    shards = tuple(Shard(**shard) for shard in table.pop("shards"))
    return SplitManifest(domains=domains, shards=shards, **table)
