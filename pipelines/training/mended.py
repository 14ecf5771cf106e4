"""What a run tells of a loss, and of how it was mended; of a node that goes, without a change."""

from collections.abc import Mapping
from dataclasses import dataclass

from actors.engine.healing import Healed
from actors.engine.resizing import Resized


@dataclass(frozen=True, slots=True)
class Lost:
    """A loss, as the driver learns of it, with ``done`` steps done."""

    done: int
    cause: str

    @classmethod
    def of(cls, done: int, error: BaseException) -> "Lost":
        """Return a loss by its error; the first line of what Ray says of it is enough."""
        return cls(done, first_line(error))

    @property
    def line(self) -> str:
        """The line for the terminal."""
        return f"loss after step {self.done}: {self.cause}"


@dataclass(frozen=True, slots=True)
class Waiting:
    """A run can do nothing but wait, as for nodes: after a loss, or before it begins."""

    reason: str

    @property
    def line(self) -> str:
        """The line for the terminal."""
        return self.reason


@dataclass(frozen=True, slots=True)
class Stays:
    """Ranks of a node that goes stay there, for a reason; they are healed once it is gone."""

    step: int
    reason: str

    @property
    def line(self) -> str:
        """The line for the terminal."""
        return f"no change of plan after step {self.step}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Mended:
    """A loss, and how the run went on: from the boundary after ``step`` steps.

    ``replaced``: ranks that are new processes; all others kept theirs. ``restored``: every rank is
    new and has read the checkpoint. ``replanned``: the run goes on under another plan over what is
    left, and a line on that plan follows. ``seconds`` of each phase, in their order. ``lost_step``
    was under way, or done, when it happened: the steps between are done again.
    """

    step: int
    lost_step: int
    replaced: tuple[int, ...]
    restored: bool
    cause: str
    reason: str
    seconds: Mapping[str, float]
    replanned: bool = False

    @classmethod
    def of(cls, healed: Healed, lost_step: int, cause: str) -> "Mended":
        """Return what is told of ranks that were healed in place."""
        return cls(
            healed.step, lost_step, healed.replaced, False, cause, healed.reason, healed.seconds
        )

    @classmethod
    def over(cls, resized: Resized, lost_step: int, cause: str) -> "Mended":
        """Return what is told of a run that goes on over what is left, under another plan."""
        told = (resized.step, lost_step, (), False, cause, resized.reason, resized.seconds)
        return cls(*told, replanned=True)

    @property
    def total_seconds(self) -> float:
        """Seconds without training."""
        return sum(self.seconds.values())

    @property
    def line(self) -> str:
        """The line for the terminal."""
        again = self.lost_step - self.step
        steps = "no step is" if again <= 0 else f"{again} step{'s are' if again > 1 else ' is'}"
        return (
            f"{self._done} in {self.total_seconds:.1f} s; training goes on from step {self.step}, "
            f"{steps} done again"
        )

    @property
    def how(self) -> str:
        """In one word: healed, replanned or restored."""
        if self.restored:
            return "restored"
        return "replanned" if self.replanned else "healed"

    @property
    def _done(self) -> str:
        if self.restored:
            return f"restored with new processes for all ranks ({self.reason})"
        if self.replanned:
            return f"replanned over what is left ({self.reason})"
        if not self.replaced:
            return "mended with all processes kept"
        ranks = "rank " if len(self.replaced) == 1 else "ranks "
        return f"healed with new processes for {ranks}{', '.join(map(str, self.replaced))} only"


def first_line(error: object) -> str:
    """Return the first line of an error, or of what is said of it."""
    return str(error).partition("\n")[0].rstrip(".")
