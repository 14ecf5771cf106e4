"""A model and its token shards, checked against each other before anything starts."""

from pathlib import Path

from moe.checkpoint.reader import Checkpoint
from moe.config.model import ModelConfig
from moe.errors import DataError
from pipelines.corpus.manifest import MANIFEST, Split
from pipelines.corpus.shard_writer import file_sha256
from pipelines.corpus.shards import TokenShards

TOKENIZER = "tokenizer.json"


def notes_on(model: Path) -> tuple[str, ...]:
    """Return notes: where the model is not read as its config.json says, and what is ignored.

    Raises CheckpointError if the model cannot be read.
    """
    return Checkpoint.open(model).notes


def open_shards(model: Path, config: ModelConfig, data: Path, split: Split) -> TokenShards:
    """Open one split; DataError if its tokens do not match the model."""
    shards = TokenShards.open(data, split)
    shards.check_vocabulary(config.vocab_size)
    if shards.sequence_length > config.max_positions:
        raise DataError(
            f"{data} has sequences of {shards.sequence_length} tokens but the model was made for "
            f"{config.max_positions}; tokenize with a shorter --sequence-length"
        )
    tokenizer = model / TOKENIZER
    if tokenizer.exists() and file_sha256(tokenizer) != shards.manifest.tokenizer_sha256:
        raise DataError(
            f"{data} was made with another tokenizer than {tokenizer}; the same token ids would "
            f"mean other words: tokenize again with --model {model}"
        )
    return shards


def fingerprint(data: Path) -> str:
    """Return the fingerprint of a directory of shards: the hash of its manifest."""
    return file_sha256(data / MANIFEST)
