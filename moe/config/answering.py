"""How ranks answer requests: what they keep in memory, and when and where they do."""

from typing import Literal

WeightKind = Literal["fp32", "fp16", "int8"]
"""Weights as they are, or packed in 16 or 8 bits each."""

CacheKind = Literal["fp32", "bf16"]
"""The numbers of keys and values."""

OnNewWeights = Literal["continue", "recompute"]
"""What becomes of the keys and values of running sequences when a training run has done a step."""

Routing = Literal["prefix", "load"]
"""Which of several replicas gets a request: one that has computed a prompt that begins alike, or
one with less to do.
"""

TIME_SHARE = 0.2
"""The most of a training run's time that goes into answering, unless asked otherwise."""

CACHE_TOKENS = 16384
"""Tokens whose keys and values are kept, of all sequences together, unless asked otherwise.

A model may accept more tokens than a device can hold keys and values for (131072 tokens of
Llama-3.2-1B take 8.6 GB), and few requests need that many.
"""

RUNNING = 32
"""Sequences that run together, unless asked otherwise."""
