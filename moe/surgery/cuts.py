"""Methods that divide the columns of the dense feed-forward: no column is copied or lost."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from moe.config.model import MoeConfig
from moe.errors import ConfigError
from moe.surgery.copies import equal_width
from moe.surgery.method import RouterKind, Site, all_alike
from moe.surgery.part import Cut, Part
from moe.surgery.partition import clusters, random_sets, strongest
from moe.surgery.seeds import generator
from moe.surgery.weights import weight_sum

Grouping = Literal["random", "activation"]


@dataclass(frozen=True, slots=True)
class Split:
    """Every column goes to one of m experts of 1/m of the width (LLaMA-MoE, Zhu et al. 2024).

    ``by`` is random, or activation: columns that are active on the same tokens are grouped. The k
    parts that a token takes represent all m parts, scaled to weight one each: with weights that sum
    to one the gain is m, with raw softmax weights m * m / k, with raw sigmoids 2 m / k.
    """

    name: ClassVar[str] = "split"
    routers: ClassVar[tuple[RouterKind, ...]] = ("normal", "zero", "centroid")
    by: Grouping = "random"

    def __post_init__(self) -> None:
        if self.by not in get_args(Grouping):
            raise ConfigError(f"by is {self.by!r}; choose {' or '.join(get_args(Grouping))}")

    @property
    def measures(self) -> bool:
        """Whether columns are clustered by activity, which needs calibration."""
        return self.by == "activation"

    @property
    def repeats(self) -> int:
        """Every expert has its row."""
        return 1

    def shape(self, moe: MoeConfig) -> MoeConfig:
        """Return experts that divide the width."""
        return replace(moe, expert_size=equal_width(moe.expert_size, moe.experts))

    def gain(self, moe: MoeConfig) -> float:
        """Return the inverse of the sum of the weights, scaled so that the chosen parts represent
        all.
        """
        return moe.experts / weight_sum(moe)

    def exact(self, moe: MoeConfig, router: RouterKind) -> bool:
        """Return whether every token takes every expert with equal weight."""
        return all_alike(moe, router)

    def cut(self, site: Site) -> Cut:
        """Return a division of all columns."""
        everything = torch.arange(site.ffn_size)
        return Cut(self._experts(site, everything))

    def _experts(self, site: Site, columns: Tensor) -> tuple[Part, ...]:
        """Divide some columns among the experts."""
        source = generator(site.seed, "split", site.layer)
        if site.activity is None:
            sets = random_sets(len(columns), site.moe.experts, source)
        else:
            sets = clusters(site.activity[columns], site.moe.experts, source)
        return tuple(Part(columns[chosen]) for chosen in sets)


@dataclass(frozen=True, slots=True)
class Shared(Split):
    """Split, with ``shared`` parts kept as the shared expert (DeepSeekMoE section 3.2).

    By activation it gets the columns with the largest mean activity: the columns that most tokens
    use. With ``shared_gate`` a sigmoid weighs it; the gate begins at zero, where the sigmoid is one
    half, so the shared expert is doubled.
    """

    name: ClassVar[str] = "shared"
    shared: int = 1
    shared_gate: bool = False

    def __post_init__(self) -> None:
        Split.__post_init__(self)
        if self.shared < 1:
            raise ConfigError(f"shared is {self.shared}; give at least 1 part, or the method split")

    def shape(self, moe: MoeConfig) -> MoeConfig:
        """Return routed experts and a shared expert that divide the width."""
        width = equal_width(moe.expert_size, moe.experts + self.shared)
        return replace(
            moe,
            expert_size=width,
            shared_size=width * self.shared,
            shared_gate=self.shared_gate,
        )

    def cut(self, site: Site) -> Cut:
        """Return the shared columns and a division of the others."""
        kept = self._kept(site)
        routed = torch.ones(site.ffn_size, dtype=torch.bool).index_fill(0, kept, False)
        shared = Part(kept, gain=2.0 if self.shared_gate else 1.0)
        return Cut(self._experts(site, routed.nonzero().flatten()), shared)

    def _kept(self, site: Site) -> Tensor:
        if site.activity is not None:
            return strongest(site.activity, site.moe.shared_size).sort().values
        source = generator(site.seed, "shared", site.layer)
        order = torch.randperm(site.ffn_size, generator=source)
        return order[: site.moe.shared_size].sort().values
