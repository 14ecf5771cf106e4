"""The interface of a way to shrink, and what it may look at in a layer."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from moe.checkpoint.reader import Checkpoint
from moe.surgery.look.routed import Routed
from moe.surgery.shrink.fold import Fold, Reduction


@dataclass(frozen=True, slots=True)
class Site:
    """One layer: the model with its weights, and what the layer does on text where that is
    measured.
    """

    checkpoint: Checkpoint
    layer: int
    reduction: Reduction
    seed: int
    routed: Routed | None = None

    @property
    def seen(self) -> Routed:
        """What the layer does on text."""
        assert self.routed is not None
        return self.routed


class ShrinkMethod(Protocol):
    """A frozen value whose fields are all the options that the method reads."""

    name: ClassVar[str]

    @property
    def measures(self) -> bool:
        """Whether the method looks at what layers do on text."""
        ...

    def folds(self, site: Site) -> tuple[Fold, ...]:
        """Return the experts of a layer after the method, in their order."""
        ...
