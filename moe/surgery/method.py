"""The interface of an upcycling method: the shape of the experts, and a cut of each layer.

A routed sum is ``sum_i w_i FFN_i(x)``. If the weights of a token sum to one and every FFN_i is the
dense feed-forward, the sum equals the dense feed-forward. A method whose weights sum to another
value, or whose FFN_i are pieces, multiplies the sum by its ``gain``. With s the mean sum of the
weights of a token (``moe.surgery.weights``), w = s / k each, and k of N experts chosen:

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
    """A layer to cut. ``activity`` [column, token], if the method measures it, is the absolute
    activation of each column of the dense feed-forward on calibration tokens.
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
        """Whether the method needs the activity of the columns."""
        ...

    @property
    def repeats(self) -> int:
        """Number of consecutive routed experts that share one row of the router."""
        ...

    def shape(self, moe: MoeConfig) -> MoeConfig:
        """Return the MoE configuration after the method; ``moe`` has experts of the dense width."""
        ...

    def gain(self, moe: MoeConfig) -> float:
        """Return the factor of the routed sum."""
        ...

    def exact(self, moe: MoeConfig, router: RouterKind) -> bool:
        """Return whether the new model computes the same function as the dense model."""
        ...

    def cut(self, site: Site) -> Cut:
        """Return the cut of a layer, without the gain."""
        ...


def all_alike(moe: MoeConfig, router: RouterKind) -> bool:
    """Return whether every token takes every expert with equal weight, as with a gate of zeros."""
    return router == "zero" and moe.top_k == moe.experts
