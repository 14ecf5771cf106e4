"""The use of the time of a run under failures.

Every second is in exactly one category:

    horizon = useful + slower + lost + recovery + saving + waiting
    effective training time ratio = useful / horizon,   useful = steps kept x undisturbed step
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Goodput:
    """The use of the time of a run, in seconds.

    ``slower``: extra time of kept steps, on fewer devices. ``lost``: discarded work, and the step
    that the horizon cut. ``saving``: stalls. ``waiting``: for devices. ``failures``: moments at
    which a device in use was lost; ``restores``: starts from a checkpoint.
    """

    horizon_seconds: float
    steps: int
    undisturbed_steps: int
    failures: int
    restores: int
    useful_seconds: float
    slower_seconds: float
    lost_seconds: float
    recovery_seconds: float
    saving_seconds: float
    waiting_seconds: float

    @property
    def effective_ratio(self) -> float:
        """Effective training time ratio: useful over wall time."""
        return self.useful_seconds / self.horizon_seconds

    @property
    def relative_throughput(self) -> float:
        """Steps over those of the same run, saves included, without events."""
        return self.steps / self.undisturbed_steps if self.undisturbed_steps else 1.0
