"""What ``make demo`` makes, in small and in seconds: a dense model, its upcycling, tokens.

The model types are those of the demo: a Llama with tied embeddings, and the Skywork-MoE directory
with remote code that upcycling makes of it. Weights are random, the text is counted numbers.
"""

import atexit
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from moe.config.model import ModelConfig
from moe.surgery.initialise import initialise
from moe.surgery.options import UpcycleOptions
from moe.surgery.upcycle import upcycle
from pipelines.corpus.tokenize import TokenizeOptions, tokenize

BYTES = 256
"""Tokens that are one byte each; the one after them ends a document."""

SEQUENCE_LENGTH = 32
DOCUMENTS, NUMBERS = 20, 200

CONFIG = ModelConfig(
    family="llama",
    vocab_size=BYTES + 1,
    hidden_size=48,
    layers=4,
    heads=6,
    kv_heads=2,
    head_size=8,
    ffn_size=64,
    norm_eps=1e-5,
    rope_theta=1e4,
    max_positions=128,
    tie_embeddings=True,
    initializer_range=0.1,
    eos_token_ids=(BYTES,),
)


@cache
def small_demo() -> Path:
    """Return a folder with ``dense``, ``moe`` and ``tokens``; it goes when this process ends."""
    temporary = TemporaryDirectory(prefix="raymoe-bench-")
    atexit.register(temporary.cleanup)
    folder = Path(temporary.name)
    dense, text = folder / "dense", folder / "text"
    initialise(CONFIG, dense, seed=0)
    byte_tokenizer().save(str(dense / "tokenizer.json"))
    text.mkdir()
    for first in range(DOCUMENTS):
        counted = " ".join(str(first * number) for number in range(NUMBERS))
        (text / f"{first}.txt").write_text(counted)
    tokenize([text], dense, folder / "tokens", TokenizeOptions(SEQUENCE_LENGTH))
    upcycle(dense, folder / "moe", UpcycleOptions(experts=4, top_k=2, gate_norm=1.0))
    return folder


def byte_tokenizer() -> Tokenizer:
    """Return a tokenizer whose tokens are bytes."""
    names = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<end>"]
    tokenizer = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
