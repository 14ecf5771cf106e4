"""How the routers of a model do on a text, layer by layer."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from actors.commands import RouterReport
from moe.checkpoint.reader import Checkpoint
from moe.nn.dispatch import drop_rate
from moe.nn.similarity import mean_of_pairs
from moe.surgery.look.weights import weight_cosines


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


class Routers:
    """Adds up what routers did with one batch after the other; drop rates are those at a capacity
    factor at which nothing is dropped.
    """

    def __init__(self, virtual_factor: float) -> None:
        self._factor = virtual_factor
        self._seen: dict[int, list[RouterReport]] = defaultdict(list)

    def add(self, routers: Mapping[int, RouterReport]) -> None:
        """Add a batch."""
        for layer, found in routers.items():
            self._seen[layer].append(found)

    def health(self, checkpoint: Checkpoint) -> dict[int, RouterHealth]:
        """Return the health of each router; similarity is that of the experts of a checkpoint."""
        return {
            layer: self._health(found, mean_of_pairs(weight_cosines(checkpoint, layer)))
            for layer, found in sorted(self._seen.items())
        }

    def _health(self, found: Sequence[RouterReport], similarity: float) -> RouterHealth:
        load = np.sum([each.load for each in found], axis=0, dtype=np.float64)
        dropped = [drop_rate(torch.tensor(each.load), self._factor).item() for each in found]
        return RouterHealth(
            load=tuple((load / load.sum()).tolist()),
            drop_rate=float(np.mean(dropped)),
            sharpness=float(np.mean([each.sharpness for each in found])),
            similarity=similarity,
        )
