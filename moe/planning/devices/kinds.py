"""Names of kinds of GPUs: those of the table of rates, of drivers and clouds, and Ray's words."""

import re
from collections.abc import Iterator, Mapping

from moe.planning.devices.rates import GPUS

RAY_WORDS: Mapping[str, str] = {
    "4090": "GeForce-RTX-4090",
    "A100-40G": "A100",
    "A100-80G": "A100",
    "H100-NVL": "H100",
    "H100-PCIE": "H100",
    "MI300X": "AMD-Instinct-MI300X-OAM",
    "V100-32G": "V100",
}
"""Kinds whose nodes Ray marks with another word: Ray does not look at the memory of a GPU."""

_ABOUT = 0.07
"""Relative tolerance between the memory that a driver reports and the nominal GiB of a GPU."""


def ray_word(kind: str) -> str:
    """Return the word by which Ray marks nodes with GPUs of a kind, unless a node says another."""
    return RAY_WORDS.get(kind, kind)


def kinds_of_word(word: str) -> tuple[str, ...]:
    """Return the kinds of the table whose nodes Ray marks with a word."""
    return tuple(kind for kind in GPUS if ray_word(kind) == word)


def kind_of_gpu(product: str, memory_bytes: int | None = None) -> str:
    """Return the kind of a GPU product by any of its usual names; the product itself if unknown.

    A kind matches if the product has all words of the kind; the longest match wins. ``A100-80G``
    matches ``NVIDIA-A100-SXM4-80GB``, and matches ``NVIDIA-A100-PG509-200`` if the memory agrees.
    """
    found = _kinds(product, memory_bytes)
    return max(found, key=lambda kind: kind.count("-"), default=product)


def is_of_kind(kind: str, product: str, memory_bytes: int) -> bool:
    """Return whether a GPU may be of a kind; only a kind of the table can be told to be another."""
    return kind not in GPUS or kind in _kinds(product, memory_bytes)


def _kinds(product: str, memory_bytes: int | None) -> Iterator[str]:
    words = set(re.split(r"[^A-Z0-9.]+", product.upper()))

    def has(kind: str, word: str) -> bool:
        if not re.fullmatch(r"\d+G", word):
            return word in words
        size = GPUS[kind].memory_bytes
        near = memory_bytes is not None and abs(memory_bytes / size - 1) < _ABOUT
        return f"{word}B" in words or word in words or near

    return (kind for kind in GPUS if all(has(kind, word) for word in kind.split("-")))
