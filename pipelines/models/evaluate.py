"""Held-out loss of a model, and how its routers do. One process, the whole model."""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from moe.checkpoint.reader import Checkpoint
from moe.errors import ConfigError, DataError
from moe.nn.build import build
from moe.nn.decoder import Decoder, Pass
from moe.nn.dispatch import Capacity
from moe.nn.loss import cross_entropy_sum
from moe.nn.similarity import expert_similarity
from moe.nn.statistics import RoutingStatistics
from pipelines.corpus.inputs import open_shards
from pipelines.corpus.manifest import Split
from pipelines.corpus.shards import IGNORED

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """``rows`` sequences, spread evenly over the split; None takes all of them."""

    split: Split = "held_out"
    rows: int | None = None
    batch: int = 2
    virtual_capacity_factor: float = 1.0

    def __post_init__(self) -> None:
        if self.batch < 1 or (self.rows is not None and self.rows < 1):
            raise ConfigError(
                f"asked for {self.rows} sequences in batches of {self.batch}; give at least 1"
            )


@dataclass(frozen=True, slots=True)
class RouterHealth:
    """One layer: share of assignments by expert, drop rate at the virtual capacity, mean ratio of
    the two largest probabilities, mean cosine of its experts.
    """

    load: tuple[float, ...]
    drop_rate: float
    sharpness: float
    similarity: float

    @property
    def imbalance(self) -> float:
        """Load of the busiest expert over a fair share."""
        return max(self.load) * len(self.load)

    @property
    def idle(self) -> int:
        """Experts that received no token."""
        return sum(load == 0 for load in self.load)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Loss in nats per token over ``tokens`` predictions, and the health of each router."""

    loss: float
    tokens: int
    seconds: float
    layers: dict[int, RouterHealth]

    @property
    def perplexity(self) -> float:
        """Exponential of the loss."""
        return math.exp(self.loss)

    @property
    def drop_rate(self) -> float:
        """Mean drop rate over layers; 0 without experts."""
        rates = [layer.drop_rate for layer in self.layers.values()]
        return sum(rates) / len(rates) if rates else 0.0


def evaluate(
    model: Path, data: Path, options: EvaluateOptions, progress: Progress = lambda done, total: None
) -> Evaluation:
    """Return the loss of a model directory on tokenised text."""
    checkpoint = Checkpoint.open(model)
    shards = open_shards(model, checkpoint.config, data, options.split)
    decoder = build(checkpoint.config, checkpoint.read).eval()
    rows = _spread(len(shards), options.rows)
    started = time.perf_counter()
    loss, tokens = 0.0, 0
    seen: dict[int, list[RoutingStatistics]] = defaultdict(list)
    for first in range(0, len(rows), options.batch):
        batch = shards.batch(rows[first : first + options.batch])
        total, statistics = _run(decoder, batch.tokens, batch.labels, options)
        loss += total
        tokens += int((batch.labels != IGNORED).sum())
        for layer, found in statistics.items():
            seen[layer].append(found)
        progress(first + len(batch.tokens), len(rows))
    if not tokens:
        raise DataError(
            f"no label counts in the {len(rows)} rows of {data}: each of them holds one token of "
            "each of its documents, so there is nothing to predict; tokenize with a "
            "longer --sequence-length, or longer documents"
        )
    seconds = time.perf_counter() - started
    layers = {layer: _health(decoder, layer, found) for layer, found in seen.items()}
    return Evaluation(loss / tokens, tokens, seconds, layers)


@torch.inference_mode()
def _run(
    decoder: Decoder,
    tokens: np.ndarray,
    labels: np.ndarray,
    options: EvaluateOptions,
) -> tuple[float, dict[int, RoutingStatistics]]:
    capacity = Capacity(virtual_factor=options.virtual_capacity_factor)
    output = decoder(torch.from_numpy(tokens), Pass(capacity))
    loss = cross_entropy_sum(output.values, torch.from_numpy(labels)).item()
    return loss, output.statistics


def _health(decoder: Decoder, layer: int, found: Sequence[RoutingStatistics]) -> RouterHealth:
    def mean(values: list[Tensor]) -> float:
        return torch.stack(values).float().mean().item()

    experts = decoder.mixture(layer).experts
    load = torch.stack([statistics.load for statistics in found]).sum(dim=0).double()
    return RouterHealth(
        load=tuple((load / load.sum()).tolist()),
        drop_rate=mean([statistics.drop_rate for statistics in found]),
        sharpness=mean([statistics.sharpness for statistics in found]),
        similarity=expert_similarity([list(expert.parameters()) for expert in experts.values()]),
    )


def _spread(total: int, wanted: int | None) -> np.ndarray:
    count = total if wanted is None else min(wanted, total)
    return np.unique(np.linspace(0, total - 1, count).astype(np.int64))
