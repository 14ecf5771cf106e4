"""Methods whose experts are copies of the dense feed-forward: complete, perturbed, or in shards."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from moe.config.model import MoeConfig
from moe.errors import ConfigError
from moe.surgery import change
from moe.surgery.method import RouterKind, Site, all_alike
from moe.surgery.part import Cut, Part
from moe.surgery.seeds import generator
from moe.surgery.weights import sums_to_one, weight_sum

_MOST_PIECES = 256
"""Numbers of equal parts that error messages suggest."""


@dataclass(frozen=True, slots=True)
class Copy:
    """Every expert is the dense feed-forward (Skywork-MoE section 3, Komatsuzaki et al. 2022)."""

    name: ClassVar[str] = "copy"
    routers: ClassVar[tuple[RouterKind, ...]] = ("normal", "zero")

    @property
    def measures(self) -> bool:
        """No: the method needs no calibration data."""
        return False

    @property
    def repeats(self) -> int:
        """Each expert has its own router row."""
        return 1

    def shape(self, moe: MoeConfig) -> MoeConfig:
        """Leave experts as wide as the dense feed-forward."""
        return moe

    def gain(self, moe: MoeConfig) -> float:
        """Return the inverse of the sum of a token's weights."""
        return 1.0 / weight_sum(moe)

    def exact(self, moe: MoeConfig, router: RouterKind) -> bool:
        """Return whether the sum of the weights is known; otherwise it differs between tokens."""
        return sums_to_one(moe) or all_alike(moe, router)

    def cut(self, site: Site) -> Cut:
        """Return the complete feed-forward for every expert."""
        return Cut((Part(),) * site.moe.experts)


@dataclass(frozen=True, slots=True)
class Noise(Copy):
    """Copies with Gaussian noise, different for each expert.

    ``deviation`` is relative to the standard deviation of each tensor. The noise makes experts
    differ from the first step on, but the loss starts above the dense model's.
    """

    name: ClassVar[str] = "noise"
    deviation: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.deviation <= 10:
            raise ConfigError(
                f"deviation is {self.deviation}; give one from 0 to 10, as a multiple of the "
                "standard deviation of each tensor"
            )

    def exact(self, moe: MoeConfig, router: RouterKind) -> bool:
        """Return whether the deviation is 0 and a plain copy would be exact."""
        return self.deviation == 0 and Copy.exact(self, moe, router)

    def cut(self, site: Site) -> Cut:
        """Return a perturbed copy for every expert."""
        noise = change.Noise(self.deviation) if self.deviation else None
        return Cut((Part(change=noise),) * site.moe.experts)


@dataclass(frozen=True, slots=True)
class Drop(Copy):
    """Drop-Upcycling (Nakamura et al. 2025): a share ``ratio`` of each expert's columns is new.

    The paper finds one half best: kept columns preserve the dense model, new columns let experts
    diverge.
    """

    name: ClassVar[str] = "drop"
    ratio: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise ConfigError(f"ratio is {self.ratio}; give the share of columns, from 0 to 1")

    def shape(self, moe: MoeConfig) -> MoeConfig:
        """Leave experts as wide as the dense feed-forward; raises if no column would be new."""
        if self.ratio and not self._count(moe.expert_size):
            raise ConfigError(
                f"ratio {self.ratio:g} of {moe.expert_size} columns is none, the experts would be "
                f"mere copies; give at least {1 / moe.expert_size:.2g}, or the method copy"
            )
        return moe

    def exact(self, moe: MoeConfig, router: RouterKind) -> bool:
        """Return whether nothing is dropped and a plain copy would be exact."""
        return self.ratio == 0 and Copy.exact(self, moe, router)

    def cut(self, site: Site) -> Cut:
        """Return copies, with new columns chosen for each expert."""
        return Cut(tuple(self._expert(site, expert) for expert in range(site.moe.experts)))

    def _expert(self, site: Site, expert: int) -> Part:
        if not self.ratio:
            return Part()
        count = self._count(site.ffn_size)
        source = generator(site.seed, "drop", site.layer, expert)
        columns = torch.randperm(site.ffn_size, generator=source)[:count].sort().values
        return Part(change=change.Redraw(columns))

    def _count(self, ffn_size: int) -> int:
        return round(self.ratio * ffn_size)


@dataclass(frozen=True, slots=True)
class VirtualGroup(Copy):
    """Fine-grained copies (He et al. 2024, "Upcycling Large Language Models into MoE").

    Each of E copies is cut into ``granularity`` G blocks of columns: E * G experts, G * top-k
    chosen. Expert e * G + g is block g of copy e, as in megatron-core; the G experts of a copy, its
    virtual group, share one row of the router. So they get one score, and a token takes complete
    groups. If weights sum to one, a shard has 1/G of the weight of its group and the gain is G; a
    softmax that is not renormalised gives the gain N * G / k of the paper; a sigmoid weighs each
    shard by the full score, so with two chosen groups the gain is 1.
    """

    name: ClassVar[str] = "virtual-group"
    routers: ClassVar[tuple[RouterKind, ...]] = ("normal",)
    granularity: int = 2

    def __post_init__(self) -> None:
        if self.granularity < 2:
            raise ConfigError(
                f"granularity is {self.granularity}; give at least 2, or the method copy"
            )

    @property
    def repeats(self) -> int:
        """One row of the router for each virtual group."""
        return self.granularity

    def shape(self, moe: MoeConfig) -> MoeConfig:
        """Return G times as many experts of 1/G of the width."""
        pieces = self.granularity
        return replace(
            moe,
            experts=moe.experts * pieces,
            top_k=moe.top_k * pieces,
            expert_size=equal_width(moe.expert_size, pieces),
        )

    def gain(self, moe: MoeConfig) -> float:
        """Return the inverse of the sum of the weights, times G, because each full copy is G
        shards.
        """
        return self.granularity / weight_sum(moe, self.granularity)

    def cut(self, site: Site) -> Cut:
        """Return consecutive blocks of columns."""
        runs = torch.arange(site.ffn_size).chunk(self.granularity)
        parts = tuple(Part(columns) for columns in runs)
        return Cut(parts * (site.moe.experts // self.granularity))


def equal_width(ffn_size: int, pieces: int) -> int:
    """Return the width of each piece; ConfigError if the pieces would not be equal."""
    if ffn_size % pieces:
        near = [n for n in range(2, min(ffn_size, _MOST_PIECES + 1)) if ffn_size % n == 0]
        if near:
            advice = f"choose one of {', '.join(map(str, near))}"
        else:
            most = min(ffn_size - 1, _MOST_PIECES)
            advice = (
                f"no number from 2 to {most} divides {ffn_size}: choose a method that does not cut "
                "it (copy, noise or drop)"
            )
        raise ConfigError(
            f"a feed-forward of {ffn_size} columns cannot be cut into {pieces} equal parts; "
            f"{advice}"
        )
    return ffn_size // pieces
