"""The names of full blocks: a hash of all tokens up to the end of the block, and of what computes
them.

Equal names mean equal keys and values: the same model and adapter, the same tokens before.
"""

import hashlib
from array import array
from collections.abc import Sequence

from moe.nn.inference.rows import BLOCK

Name = bytes


def beginning(of: str) -> Name:
    """Return the name before the first block; ``of`` tells the model, its version and adapter."""
    return hashlib.blake2b(of.encode(), digest_size=16).digest()


def following(before: Name, tokens: Sequence[int]) -> Name:
    """Return the name of the block of these tokens after the one with the name ``before``."""
    assert len(tokens) == BLOCK
    return hashlib.blake2b(before + array("q", tokens).tobytes(), digest_size=16).digest()
