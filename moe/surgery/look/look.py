"""What the experts of each layer are like, and what they do on text.

Shapes: N experts, T tokens, K experts per token.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from moe.checkpoint.reader import Checkpoint
from moe.errors import ConfigError
from moe.nn.similarity import mean_of_pairs
from moe.nn.statistics import sharpness
from moe.surgery.look.outputs import output_cka
from moe.surgery.look.routed import Routed, routed
from moe.surgery.look.weights import weight_cosines

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Traffic:
    """One layer on some tokens.

    By expert: ``load``, its share of the (token, expert) pairs, and ``reach``, the mean length of
    its weighted output over its tokens (0 without tokens). ``together`` [N][N] is the share of
    tokens that use both experts, on its diagonal of those that use one. ``cka`` compares outputs
    (``moe.surgery.look.outputs``). ``sharpness`` is the mean of the largest score over the second,
    ``second_sharpness`` of the second over the third (Skywork-MoE figure 3); None where there is no
    third expert, or where tokens are hashed to experts.
    """

    load: tuple[float, ...]
    reach: tuple[float, ...]
    together: Matrix
    cka: Matrix
    sharpness: float | None
    second_sharpness: float | None

    @property
    def dead(self) -> tuple[int, ...]:
        """Experts that no token uses."""
        return tuple(number for number, share in enumerate(self.load) if share == 0)

    @property
    def imbalance(self) -> float:
        """Load of the busiest expert over the mean load."""
        return max(self.load) * len(self.load)


@dataclass(frozen=True, slots=True)
class LayerLook:
    """One layer: cosines of the weights of its experts, each flattened, and its traffic if text
    was given.
    """

    layer: int
    cosine: Matrix
    traffic: Traffic | None = None

    @property
    def similarity(self) -> float:
        """Mean cosine of all pairs of experts."""
        return mean_of_pairs(torch.tensor(self.cosine, dtype=torch.float64))

    @property
    def output_similarity(self) -> float | None:
        """Mean CKA of all pairs of experts."""
        if self.traffic is None:
            return None
        return mean_of_pairs(torch.tensor(self.traffic.cka, dtype=torch.float64))


Pair = tuple[int, int, float]


def closest(similarity: Matrix, wanted: int) -> list[Pair]:
    """Return the most similar pairs of experts and their similarity, the most similar first."""
    count = len(similarity)
    pairs = [(i, j, similarity[i][j]) for i in range(count) for j in range(i + 1, count)]
    return sorted(pairs, key=lambda pair: -pair[2])[:wanted]


def look(checkpoint: Checkpoint, tokens_BS: Tensor | None = None) -> Iterator[LayerLook]:
    """Yield a look at each layer with experts; ``tokens_BS`` [B, S] make its traffic."""
    config = checkpoint.config
    if config.moe is None:
        raise ConfigError(
            f"{checkpoint.path} is a dense {config.family} model and has no experts to inspect; "
            "upcycle it first"
        )
    if tokens_BS is not None and config.moe.merged:
        raise ConfigError(
            f"{checkpoint.path} merges its experts for segments, and no token is sent to one of "
            "them: there is no traffic to count; leave the data out to compare their weights"
        )
    seen = None if tokens_BS is None else routed(checkpoint, tokens_BS)
    for layer in config.moe_layers:
        traffic = None if seen is None else traffic_of(next(seen), config.moe.hashed)
        yield LayerLook(layer, _rows(weight_cosines(checkpoint, layer)), traffic)


def traffic_of(found: Routed, hashed: bool = False) -> Traffic:
    """Return the figures of one layer on the tokens that were routed."""
    load_N, scores_TN = found.load, found.routing.scores
    tokens, experts = scores_TN.shape
    used_TN = torch.zeros(tokens, experts).scatter_(1, found.routing.experts, 1.0)
    sharp = not hashed
    return Traffic(
        load=tuple(found.shares),
        reach=tuple((found.reach / load_N.clamp(min=1)).tolist()),
        together=_rows((used_TN.T @ used_TN).double() / tokens),
        cka=_rows(output_cka(found)),
        sharpness=sharpness(scores_TN).item() if sharp else None,
        second_sharpness=sharpness(scores_TN, place=1).item() if sharp and experts > 2 else None,
    )


def _rows(matrix: Tensor) -> Matrix:
    return tuple(map(tuple, matrix.tolist()))
