"""The names of full blocks: a hash of all tokens up to the end of the block, and of their root.

Blocks of one root are computed by the same weights, so equal names mean equal keys and values.
Where the weights change, as those of a training run, all names are forgotten.
"""

import hashlib
from array import array
from collections.abc import Hashable, Sequence

from moe.nn.inference.rows import BLOCK

Name = bytes


def beginning(root: Hashable) -> Name:
    """Return the name before the first block of a root: of what computes the blocks, as a value
    whose ``repr`` tells it from every other.
    """
    return hashlib.blake2b(repr(root).encode(), digest_size=16).digest()


def following(before: Name, tokens: Sequence[int]) -> Name:
    """Return the name of the block of these tokens after the one with the name ``before``."""
    assert len(tokens) == BLOCK
    return hashlib.blake2b(before + array("q", tokens).tobytes(), digest_size=16).digest()
