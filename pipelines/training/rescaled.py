"""What a run tells of a change of its plan, or of one that was refused or rolled back."""

from collections.abc import Mapping
from dataclasses import dataclass

from actors.engine.resizing import Resized, Unchanged
from moe.planning.plan.plan import Plan
from moe.sizes import size_text
from pipelines.training.mended import first_line


@dataclass(frozen=True, slots=True)
class Rescaled:
    """The run goes on under another plan from the boundary after ``step`` steps.

    ``bytes`` moved between processes, of which so many were ``kept``, ``started`` and ``ended``.
    ``seconds`` of each part, in their order.
    """

    step: int
    shape: str
    bytes: int
    kept: int
    started: int
    ended: int
    reason: str
    seconds: Mapping[str, float]

    @classmethod
    def of(cls, resized: Resized) -> "Rescaled":
        """Return what is told of a change of plan."""
        return cls(
            resized.step,
            shape_text(resized.plan),
            resized.bytes,
            resized.kept,
            resized.started,
            resized.ended,
            resized.reason,
            resized.seconds,
        )

    @property
    def total_seconds(self) -> float:
        """Seconds without training."""
        return sum(self.seconds.values())

    @property
    def line(self) -> str:
        """The line for the terminal."""
        return (
            f"resized after step {self.step} to {self.shape}: {size_text(self.bytes)} moved in "
            f"{self.total_seconds:.1f} s; {self.kept} actors kept, {self.started} new, "
            f"{self.ended} ended"
        )


@dataclass(frozen=True, slots=True)
class NotRescaled:
    """The old plan goes on after ``step`` steps. ``disturbed``: ranks had to go back to it."""

    step: int
    disturbed: bool
    reason: str

    @classmethod
    def of(cls, step: int, unchanged: Unchanged) -> "NotRescaled":
        """Return what is told of a change of plan that failed."""
        return cls(step, unchanged.disturbed, unchanged.reason.partition("\n")[0])

    @classmethod
    def refused(cls, step: int, error: BaseException) -> "NotRescaled":
        """Return what is told of a wish that no plan meets."""
        return cls(step, False, first_line(error))

    @property
    def line(self) -> str:
        """The line for the terminal."""
        how = "rolled back" if self.disturbed else "refused"
        return f"change of plan {how} after step {self.step}, the old plan goes on: {self.reason}"


def shape_text(plan: Plan) -> str:
    """Return the shape of a plan in words."""
    counts = (plan.replicas, "replica"), (len(plan.stages), "stage"), (plan.gang_size, "rank")
    replicas, stages, ranks = (f"{count} {word}{'s' * (count > 1)}" for count, word in counts)
    return f"{replicas} of {stages} of {ranks}"
