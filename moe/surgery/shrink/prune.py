"""Pruning: some experts are kept as they are, the others and their rows of the router go.

By ``traffic`` the experts with the most tokens are kept; by ``reach`` those whose weighted outputs
are longest on average over their own tokens (router-weighted expert activation pruning, Lasby et
al. 2025); by ``random`` any, which is what the others are compared with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from moe.errors import ConfigError
from moe.surgery.seeds import generator
from moe.surgery.shrink.fold import Fold
from moe.surgery.shrink.method import Site

Merit = Literal["random", "traffic", "reach"]


@dataclass(frozen=True, slots=True)
class Prune:
    """Keep the experts of most merit."""

    name: ClassVar[str] = "prune"
    by: Merit = "traffic"

    def __post_init__(self) -> None:
        if self.by not in get_args(Merit):
            raise ConfigError(f"no merit {self.by!r}; choose {' or '.join(get_args(Merit))}")

    @property
    def measures(self) -> bool:
        """Whether the merit is measured on text."""
        return self.by != "random"

    def folds(self, site: Site) -> tuple[Fold, ...]:
        """Return the experts that are kept; the first of equals is."""
        merit_N = self._merit(site)

        def kept(experts: Sequence[int], wanted: int) -> list[Fold]:
            ranked = sorted(experts, key=lambda expert: -merit_N[expert].item())
            return [Fold((expert,), (1.0,)) for expert in ranked[:wanted]]

        return site.reduction.by_group(kept)

    def _merit(self, site: Site) -> Tensor:
        if self.by == "random":
            source = generator(site.seed, f"prune layer {site.layer}")
            return torch.rand(site.reduction.moe.experts, generator=source)
        load_N = site.seen.load.double()
        return load_N if self.by == "traffic" else site.seen.reach / load_N.clamp(min=1)
