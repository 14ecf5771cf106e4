"""The names of full blocks: a hash of all tokens up to the end of the block.

All blocks of a pool are computed by the same weights, so equal names mean equal keys and values.
"""

import hashlib
from array import array
from collections.abc import Sequence

from moe.nn.inference.rows import BLOCK

Name = bytes


BEGINNING: Name = b""
"""The name before the first block."""


def following(before: Name, tokens: Sequence[int]) -> Name:
    """Return the name of the block of these tokens after the one with the name ``before``."""
    assert len(tokens) == BLOCK
    return hashlib.blake2b(before + array("q", tokens).tobytes(), digest_size=16).digest()
