"""Merging: similar experts are clustered, and each cluster becomes one expert (arXiv 2407.09590).

Experts are similar by their ``weights`` (cosine) or by their ``outputs`` on text (linear CKA). The
new expert is their sum with shares that are ``uniform``, by ``usage``, or by ``least-squares``
(``moe.surgery.shrink.shares``). Columns are not permuted to match: merging suits experts that came
from one feed-forward, as after upcycling, and less those trained apart from the start.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import Tensor

from moe.errors import ConfigError
from moe.surgery.look.outputs import output_cka
from moe.surgery.look.weights import weight_cosines
from moe.surgery.shrink.cluster import clusters
from moe.surgery.shrink.fold import Fold
from moe.surgery.shrink.method import Site
from moe.surgery.shrink.shares import by_least_squares, by_usage

Similar = Literal["weights", "outputs"]
Mix = Literal["uniform", "usage", "least-squares"]


@dataclass(frozen=True, slots=True)
class Merge:
    """Cluster experts that are ``similar``, and ``mix`` each cluster into one."""

    name: ClassVar[str] = "merge"
    similar: Similar = "weights"
    mix: Mix = "uniform"

    def __post_init__(self) -> None:
        for what, found, kinds in (
            ("similarity", self.similar, get_args(Similar)),
            ("mix", self.mix, get_args(Mix)),
        ):
            if found not in kinds:
                raise ConfigError(f"no {what} {found!r}; choose {' or '.join(kinds)}")

    @property
    def measures(self) -> bool:
        """Whether similarity or shares are measured on text."""
        return self.similar == "outputs" or self.mix != "uniform"

    def folds(self, site: Site) -> tuple[Fold, ...]:
        """Return one fold for each cluster."""
        similarity_NN = self._similarity(site)

        def merged(experts: Sequence[int], wanted: int) -> list[Fold]:
            own = list(experts)
            groups = clusters(similarity_NN[own][:, own], wanted)
            return [self._fold(site, [own[number] for number in group]) for group in groups]

        return site.reduction.by_group(merged)

    def _similarity(self, site: Site) -> Tensor:
        if self.similar == "outputs":
            return output_cka(site.seen)
        return weight_cosines(site.checkpoint, site.layer)

    def _fold(self, site: Site, experts: list[int]) -> Fold:
        if len(experts) == 1:
            return Fold((experts[0],), (1.0,))
        if self.mix == "uniform":
            return Fold(tuple(experts), (1 / len(experts),) * len(experts))
        fit = by_usage if self.mix == "usage" else by_least_squares
        return Fold(tuple(experts), tuple(fit(site.seen, experts).tolist()))
