"""A separate random generator for every tensor and every choice, so that order does not matter."""

import hashlib

import torch


def generator(seed: int, *words: object) -> torch.Generator:
    """Return a generator that depends only on the seed and the purpose."""
    text = ":".join(str(word) for word in (seed, *words))
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
