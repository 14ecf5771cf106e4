"""What it costs a run to recover from the loss of devices, and how often it saves.

What to do is decided as in a run (``moe.planning.policy.decision``); a policy here says what the
run keeps, and what each decision costs. Detection, regrouping, rebuilding and restart were measured
on two CPU cores; saves and transfers are assumptions, marked at each number.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from moe.errors import PlanError
from moe.planning.policy.decision import Decision, GoOn, Resize, Restore
from moe.planning.policy.interval import save_every


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
    """Any loss ends all processes, which restart from the last checkpoint: what Ray Train does.

    Waits while devices are missing; if ``elastic``, continues with the present devices and adds new
    devices at a checkpoint. Defaults: detection and restart (import, rendezvous, load) as measured
    with Ray Train, two workers, one killed; a save of one second every 100 steps is an assumption.
    """

    checkpoints: Saves = Saves(every_steps=100, stall_seconds=1.0)
    detection_seconds: float = 1.2
    restart_seconds: float = 17.8
    elastic: bool = False

    def pause_seconds(self, decision: Decision[int], starts: bool) -> float:
        """Return the seconds without training while a decision is carried out."""
        noticed = 0.0 if isinstance(decision, Resize) else self.detection_seconds
        return noticed + self.restart_seconds


@dataclass(frozen=True, slots=True)
class LivingActors(_Numbers):
    """What a run does: survivors keep their processes; the lost rank comes back from its copy.

    All go back to the last copied step and replay from there. Training resumed, the copies that
    were lost too are made anew at once, in ``hidden_seconds``. Where a device and the holder of its
    copy are lost before that, the run restarts from the checkpoint. Where ``elastic``, it continues
    with fewer devices and adds new devices between two steps; they are built meanwhile.

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
    elastic: bool = True

    @property
    def heal_seconds(self) -> float:
        """Seconds without training while a lost rank comes back from its copy."""
        moved = self.regroup_seconds + self.transfer_seconds
        return self.detection_seconds + moved + self.rebuild_seconds

    def pause_seconds(self, decision: Decision[int], starts: bool) -> float:
        """Return the seconds without training while a decision is carried out.

        ``starts``: it waits for new processes; those of a resize are built while the run goes on.
        """
        match decision:
            case Restore():
                return self.detection_seconds + self.restart_seconds
            case Resize():
                return self.regroup_seconds + self.transfer_seconds
            case GoOn():
                return self.detection_seconds + self.regroup_seconds
            case _:
                return self.heal_seconds - (0.0 if starts else self.rebuild_seconds)


Policy = CheckpointRestart | LivingActors

POLICIES: Mapping[str, Policy] = {
    "living actors, warm spare": LivingActors(rebuild_seconds=0.0),
    "living actors": LivingActors(),
    "checkpoint restart": CheckpointRestart(),
}


def tune(policy: Policy, step_seconds: float, mtbf_seconds: float) -> Policy:
    """Return the policy with Young's intervals; unchanged if nothing fails (infinite mean).

    With living actors, checkpoints only serve a second loss, of any device, before new copies
    exist.
    """

    def best(saves: Saves, mtbf: float) -> Saves:
        every = save_every(saves.stall_seconds, saves.hidden_seconds, step_seconds, mtbf)
        return replace(saves, every_steps=every)

    if math.isinf(mtbf_seconds):
        return policy
    if isinstance(policy, CheckpointRestart):
        return replace(policy, checkpoints=best(policy.checkpoints, mtbf_seconds))
    exposed = policy.heal_seconds + policy.copies.hidden_seconds
    checkpoints = best(policy.checkpoints, mtbf_seconds**2 / max(exposed, step_seconds))
    return replace(policy, copies=best(policy.copies, mtbf_seconds), checkpoints=checkpoints)
