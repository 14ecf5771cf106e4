"""What a method of upcycling is: a shape for the experts, and a cut of each layer.

A routed sum is ``sum_i w_i FFN_i(x)``. Where the weights of a token sum to one and every FFN_i is
the dense feed-forward, it is the dense feed-forward. A method whose weights sum to something else,
or whose FFN_i are pieces, multiplies the sum by its ``gain``. With s what the weights of a token
sum to in the mean (``moe.surgery.weights``), w = s / k each, k of N experts chosen:

- whole copies:  k w of it, gain 1 / s
- shards of 1/G: k / G whole sets times w, gain G / s
- parts of 1/N:  k of N parts times w, gain N / s
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from torch import Tensor

from moe.config.model import MoeConfig
from moe.surgery.part import Cut

RouterKind = Literal["normal", "zero", "centroid"]


@dataclass(frozen=True, slots=True)
class Site:
    """A layer to be cut. ``activity`` [column, token], where the method measures it, is how
    strongly each column of the dense feed-forward answers calibration tokens: never negative.
    """

    layer: int
    ffn_size: int
    moe: MoeConfig
    seed: int
    activity: Tensor | None = None


class Method(Protocol):
    """A frozen value whose fields are all the options that the method reads."""

    name: ClassVar[str]
    routers: ClassVar[tuple[RouterKind, ...]]

    @property
    def measures(self) -> bool:
        """Whether it needs the activity of the columns."""
        ...

    @property
    def repeats(self) -> int:
        """How many routed experts in a row share one row of the router."""
        ...

    def shape(self, moe: MoeConfig) -> MoeConfig:
        """Return the routing after the method; ``moe`` has experts of the dense width."""
        ...

    def gain(self, moe: MoeConfig) -> float:
        """Return what the routed sum is multiplied by."""
        ...

    def exact(self, moe: MoeConfig, router: RouterKind) -> bool:
        """Tell whether the new model computes the dense function."""
        ...

    def cut(self, site: Site) -> Cut:
        """Return what becomes of a layer, before the gain."""
        ...


def all_alike(moe: MoeConfig, router: RouterKind) -> bool:
    """Tell whether every token takes every expert with the same weight, as a gate of zeros does."""
    return router == "zero" and moe.top_k == moe.experts
