"""How a run recovers from the loss of devices: policies with numbers, and how often to save.

Detection, regrouping, rebuilding and restart were measured on two CPU cores; saves and transfers
are assumptions, marked at each number.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from moe.errors import PlanError


@dataclass(frozen=True, slots=True)
class _Numbers:
    def __post_init__(self) -> None:
        for field in fields(self):
            number, least = getattr(self, field.name), int(field.name == "every_steps")
            if isinstance(number, float | int) and not least <= number < math.inf:
                raise PlanError(f"{field.name} is {number}; give a finite number from {least} on")


@dataclass(frozen=True, slots=True)
class Saves(_Numbers):
    """A save of the state after every ``every_steps``-th step of the run.

    Training stops for ``stall_seconds``; the save then takes ``hidden_seconds`` more during the
    next steps. Only then does the save count; a failure before that loses the save.
    """

    every_steps: int
    stall_seconds: float
    hidden_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class CheckpointRestart(_Numbers):
    """The present policy: any loss ends all processes, which restart from the last checkpoint.

    Waits while devices are missing; if ``elastic``, continues with the present devices and adds new
    devices at a checkpoint. Defaults: detection and restart (import, rendezvous, load) as measured
    with Ray Train, two workers, one killed; a save of one second every 100 steps is an assumption.
    """

    checkpoints: Saves = Saves(every_steps=100, stall_seconds=1.0)
    detection_seconds: float = 1.2
    restart_seconds: float = 17.8
    elastic: bool = False

    def pause_seconds(self, planned: bool, copied: bool = False, built: bool = True) -> float:
        """Return the seconds without training, when devices are added (planned) or after a loss."""
        return self.restart_seconds if planned else self.detection_seconds + self.restart_seconds


@dataclass(frozen=True, slots=True)
class LivingActors(_Numbers):
    """Not built yet: survivors keep their processes; the lost rank is rebuilt from its copy on a
    peer.

    All go back to the last copied step and replay from there. The copy of one device is with the
    one ``copy_distance`` further; 0 is half of the ring, as neighbours are often lost together.
    Training resumed, the copies that were lost too are made anew at once, in ``hidden_seconds``.
    Where device and holder are lost before that, the run restarts from the checkpoint. Where
    ``elastic``, it continues with fewer devices and adds new devices at a copy; they are built
    meanwhile.

    Defaults: detection, regrouping (the slowest seen) and rebuilding (a new actor that imports
    torch; 0 with a warm spare) as measured on one machine. Copy and transfer are 1 GB of state a
    rank, at the 16 GB/s measured in memory (the stall) and the 1.7 GB/s measured between two actors
    (hidden; ``transfer_seconds``). Restart and checkpoint as for CheckpointRestart.
    """

    copies: Saves = Saves(every_steps=10, stall_seconds=0.06, hidden_seconds=0.6)
    checkpoints: Saves = Saves(every_steps=400, stall_seconds=1.0)
    detection_seconds: float = 0.02
    regroup_seconds: float = 0.7
    rebuild_seconds: float = 4.2
    transfer_seconds: float = 0.6
    restart_seconds: float = 17.8
    copy_distance: int = 0
    elastic: bool = True

    def pause_seconds(self, planned: bool, copied: bool = True, built: bool = False) -> float:
        """Return the seconds without training; ``copied``: copies are left, ``built``: with a new
        process.
        """
        noticed = 0.0 if planned else self.detection_seconds
        if not copied:
            return noticed + self.restart_seconds
        building = self.rebuild_seconds if built and not planned else 0.0
        return noticed + self.regroup_seconds + building + self.transfer_seconds


Policy = CheckpointRestart | LivingActors
TODAY = "checkpoint restart"
"""The policy of a run today when a process is lost; the other policies are planned."""

POLICIES: Mapping[str, Policy] = {
    TODAY: CheckpointRestart(),
    "living actors": LivingActors(),
    "living actors, warm spare": LivingActors(rebuild_seconds=0.0),
}


def young_interval(save_seconds: float, mtbf_seconds: float) -> float:
    """Return the seconds between saves that cost least, to first order."""
    return math.sqrt(2.0 * save_seconds * mtbf_seconds)


def tune(policy: Policy, step_seconds: float, mtbf_seconds: float) -> Policy:
    """Return the policy with Young's intervals; unchanged if nothing fails (infinite mean).

    With living actors, checkpoints only serve a second loss, of any device, before new copies
    exist.
    """

    def best(saves: Saves, mtbf: float) -> Saves:
        interval = max(young_interval(saves.stall_seconds, mtbf), saves.hidden_seconds)
        return replace(saves, every_steps=max(1, math.ceil(interval / step_seconds)))

    if math.isinf(mtbf_seconds):
        return policy
    if isinstance(policy, CheckpointRestart):
        return replace(policy, checkpoints=best(policy.checkpoints, mtbf_seconds))
    exposed = policy.pause_seconds(planned=False, built=True) + policy.copies.hidden_seconds
    checkpoints = best(policy.checkpoints, mtbf_seconds**2 / max(exposed, step_seconds))
    return replace(policy, copies=best(policy.copies, mtbf_seconds), checkpoints=checkpoints)
