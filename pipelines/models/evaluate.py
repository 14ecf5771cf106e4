"""Held-out loss of a model and the health of its routers; one process holds the complete model."""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from moe.checkpoint.reader import Checkpoint
from moe.errors import CheckpointError, ConfigError, DataError
from moe.nn.ablation import Ablation, ablated
from moe.nn.build import build
from moe.nn.decoder import Decoder, Pass
from moe.nn.dispatch import Capacity
from moe.nn.finite import first_fault
from moe.nn.loss import cross_entropy_sum
from moe.nn.similarity import expert_similarity
from moe.nn.statistics import RoutingStatistics
from pipelines.corpus.inputs import open_shards
from pipelines.corpus.manifest import Split
from pipelines.corpus.shards import IGNORED, TokenShards
from pipelines.models.text import spread

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
    """The router of one layer: the fraction of (token, expert) pairs of each expert, the drop rate
    at the virtual capacity, the mean ratio of the two largest probabilities, and the mean cosine
    between experts.
    """

    load: tuple[float, ...]
    drop_rate: float
    sharpness: float
    similarity: float

    @property
    def imbalance(self) -> float:
        """Load of the busiest expert over the mean load."""
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
        """Exponential of the loss; infinity if it exceeds a float."""
        try:
            return math.exp(self.loss)
        except OverflowError:
            return math.inf

    @property
    def drop_rate(self) -> float:
        """Mean drop rate over layers; 0 without experts."""
        rates = [layer.drop_rate for layer in self.layers.values()]
        return sum(rates) / len(rates) if rates else 0.0


def evaluate(
    model: Path, data: Path, options: EvaluateOptions, progress: Progress = lambda done, total: None
) -> Evaluation:
    """Return the loss of a model directory on tokenized text.

    CheckpointError names the layer where the model computes values that are not finite.
    """
    return evaluate_ablated(model, data, options, (None,), progress)[0]


def evaluate_ablated(
    model: Path,
    data: Path,
    options: EvaluateOptions,
    ablations: Sequence[Ablation | None],
    progress: Progress = lambda done, total: None,
) -> list[Evaluation]:
    """Return the loss of a model under each ablation, and as it is for None; it is built once."""
    checkpoint = Checkpoint.open(model)
    for asked in filter(None, ablations):
        asked.check(checkpoint.config)
    shards = open_shards(model, checkpoint.config, data, options.split)
    decoder = build(checkpoint.config, checkpoint.read).eval()
    found = []
    for number, ablation in enumerate(ablations):

        def told(done: int, total: int, before: int = number) -> None:
            progress(before * total + done, len(ablations) * total)

        with nullcontext() if ablation is None else ablated(decoder, ablation):
            found.append(_evaluated(model, decoder, (data, shards), options, told))
    return found


def _evaluated(
    model: Path,
    decoder: Decoder,
    text: tuple[Path, TokenShards],
    options: EvaluateOptions,
    progress: Progress,
) -> Evaluation:
    data, shards = text
    rows = spread(len(shards), options.rows)
    started = time.perf_counter()
    loss, tokens = 0.0, 0
    seen: dict[int, list[RoutingStatistics]] = defaultdict(list)
    for first in range(0, len(rows), options.batch):
        batch = shards.batch(rows[first : first + options.batch])
        total, statistics = _run(decoder, batch.tokens, batch.labels, options)
        if not _finite(total, statistics):
            raise _not_finite(model, decoder, batch.tokens, options)
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
    output = decoder(torch.from_numpy(tokens), _measured(options))
    loss = cross_entropy_sum(output.values, torch.from_numpy(labels)).item()
    return loss, output.statistics


def _measured(options: EvaluateOptions) -> Pass:
    return Pass(Capacity(virtual_factor=options.virtual_capacity_factor))


def _finite(loss: float, statistics: dict[int, RoutingStatistics]) -> bool:
    routed = (bool(torch.isfinite(found.probability).all()) for found in statistics.values())
    return math.isfinite(loss) and all(routed)


def _not_finite(
    model: Path, decoder: Decoder, tokens: np.ndarray, options: EvaluateOptions
) -> CheckpointError:
    """Return the error for a model that computes NaN or infinity; the error names the first
    layer.
    """
    found = first_fault(decoder, torch.from_numpy(tokens), _measured(options))
    where = f"; the first values that are not finite come from {found}" if found else ""
    return CheckpointError(
        f"the loss of {model} is not a finite number{where}; take another checkpoint, or the "
        "model from which this one was made"
    )


def _health(decoder: Decoder, layer: int, found: Sequence[RoutingStatistics]) -> RouterHealth:
    def mean(values: list[Tensor]) -> float:
        return torch.stack(values).float().mean().item()

    experts = decoder.experts(layer)
    load = torch.stack([statistics.load for statistics in found]).sum(dim=0).double()
    return RouterHealth(
        load=tuple((load / load.sum()).tolist()),
        drop_rate=mean([statistics.drop_rate for statistics in found]),
        sharpness=mean([statistics.sharpness for statistics in found]),
        similarity=expert_similarity([list(expert.parameters()) for expert in experts.values()]),
    )
