"""What a run tells of a loss, and of how it was mended."""

from collections.abc import Mapping
from dataclasses import dataclass

from actors.engine.healing import Healed


@dataclass(frozen=True, slots=True)
class Lost:
    """A loss, as the driver learns of it, with ``done`` steps done."""

    done: int
    cause: str

    @property
    def line(self) -> str:
        """The line for the terminal."""
        return f"lost after step {self.done}: {self.cause}"


@dataclass(frozen=True, slots=True)
class Mended:
    """A loss, and how the run went on: from the boundary after ``step`` steps.

    ``replaced``: ranks that are new processes; all others kept theirs. ``restored``: every rank is
    new and has read the checkpoint. ``seconds`` of each phase, in their order. ``lost_step`` was
    under way, or done, when it happened: the steps between are done again.
    """

    step: int
    lost_step: int
    replaced: tuple[int, ...]
    restored: bool
    cause: str
    reason: str
    seconds: Mapping[str, float]

    @classmethod
    def of(cls, healed: Healed, lost_step: int, cause: str) -> "Mended":
        """Return what is told of ranks that were healed in place."""
        return cls(
            healed.step, lost_step, healed.replaced, False, cause, healed.reason, healed.seconds
        )

    @property
    def total_seconds(self) -> float:
        """Seconds without training."""
        return sum(self.seconds.values())

    @property
    def line(self) -> str:
        """The line for the terminal."""
        if self.restored:
            what = "restored: all actors start anew"
        elif self.replaced:
            ranks = "rank " if len(self.replaced) == 1 else "ranks "
            what = f"healed: {ranks}{', '.join(map(str, self.replaced))} replaced, all others kept"
        else:
            what = "mended: all actors kept"
        again = self.lost_step - self.step
        steps = "no step is lost" if again <= 0 else f"{again} step{'s' * (again > 1)} done again"
        return f"{what}; {steps}, {self.total_seconds:.1f} s ({self.cause}; {self.reason})"
