"""Goodput of a plan under failures: the trace played with the plan's own step and state.

On fewer devices the step is that of what then runs: with whole replicas left, those, each with more
micro-batches; with less than one, the best plan for the devices that remain, its gangs as wide.
Detection, restart and rebuilding are those measured (``moe.planning.failures.recovery``). The state
of a rank is saved by stalling as measured for one GB, or for a checkpoint at an assumed 1 GB/s a
rank, which a restart reads as fast; copies travel over the plan's links. Saves are as often as
Young's formula has it for the trace.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

from moe.config.model import ModelConfig
from moe.planning.devices.inventory import Device, Inventory
from moe.planning.devices.links import LOOPBACK
from moe.planning.failures.goodput import Goodput
from moe.planning.failures.recovery import POLICIES, LivingActors, Policy, Saves, tune
from moe.planning.failures.simulate import StepSeconds, compare
from moe.planning.failures.traces import Trace
from moe.planning.plan.plan import Plan
from moe.planning.policy.holders import holders
from moe.planning.prediction.predict import Prediction, predict
from moe.planning.schedules.schedule import taken
from pipelines.planning.capacity import devices_used
from pipelines.planning.shrinking import fewer_stages

CHECKPOINT_SECONDS = 1.0
"""To write, or to read, one GB of a rank's state: an assumption."""


@dataclass(frozen=True, slots=True)
class Run:
    """A plan in training, with what it is predicted to take."""

    config: ModelConfig
    plan: Plan
    inventory: Inventory
    predicted: Prediction

    @property
    def devices(self) -> int:
        """Devices of all replicas."""
        return len(self.plan.seats)

    @property
    def state_bytes(self) -> int:
        """Weights and optimiser of the rank that has most: what a replacement receives."""
        return max(rank.weights + rank.optimizer for rank in self.predicted.rank_bytes)

    @property
    def copy_bytes(self) -> int:
        """What the rank that has most holds alone: a copy of it. Replicas share out the weights.

        Where masters are beside the moments, the weights follow from them.
        """
        shared = 0 if self.predicted.workload.numerics.narrow else self.plan.replicas
        return max(
            rank.optimizer + (-(-rank.weights // shared) if shared else 0)
            for rank in self.predicted.rank_bytes
        )

    @property
    def seat_devices(self) -> tuple[Device, ...]:
        """The device of each rank, in the order of ranks."""
        names = (self.plan.rank(seat).devices[seat.replica] for seat in self.plan.seats)
        return tuple(map(self.inventory.device, names))


def goodputs(run: Run, trace: Trace) -> tuple[tuple[str, Goodput], ...]:
    """Return what each way to recover makes of the trace."""
    mtbf = min(trace.mtbf_seconds, trace.horizon_seconds)
    policies = {
        name: tune(policy, run.predicted.step_seconds, mtbf) for name, policy in _sized(run).items()
    }
    nodes = tuple(device.node for device in run.seat_devices)
    return compare(trace, _steps(run), run.devices, policies, nodes)


def _sized(run: Run) -> Mapping[str, Policy]:
    """Return the policies with saves and transfers of the plan's state."""
    size = run.state_bytes / 1e9
    disk = CHECKPOINT_SECONDS * size
    checkpoints = Saves(every_steps=1, stall_seconds=disk)
    found: dict[str, Policy] = {}
    for name, policy in POLICIES.items():
        restart = policy.restart_seconds + disk
        if isinstance(policy, LivingActors):
            rate = _copy_rate(run)
            stall = policy.copies.stall_seconds * run.copy_bytes / 1e9
            found[name] = replace(
                policy,
                copies=Saves(1, stall, hidden_seconds=run.copy_bytes / rate),
                checkpoints=checkpoints,
                transfer_seconds=run.state_bytes / rate,
                restart_seconds=restart,
            )
        else:
            found[name] = replace(policy, checkpoints=checkpoints, restart_seconds=restart)
    return found


def _copy_rate(run: Run) -> float:
    """Return the bytes a second of the slowest link from a rank to the holder of its copy."""
    devices = run.seat_devices
    held = holders({rank: device.node for rank, device in enumerate(devices)}) or {}
    rates = [
        run.inventory.link(devices[rank], devices[holder]).bytes_per_second
        for rank, holder in held.items()
    ]
    return min((rate for rate in rates if rate), default=LOOPBACK.bytes_per_second)


def _steps(run: Run) -> StepSeconds:
    """Return the seconds of a step by the number of devices; None where nothing runs."""

    @cache
    def step(devices: int) -> float | None:
        if devices >= run.devices:
            return run.predicted.step_seconds
        left = devices // run.plan.ranks
        return _fewer_replicas(run, left) if left else _smaller(run, devices)

    return step


def _fewer_replicas(run: Run, replicas: int) -> float:
    """Return the step of the same pipelines, fewer of them, over the same sequences."""
    work = run.predicted.workload
    stages = tuple(
        replace(
            stage,
            ranks=tuple(replace(rank, devices=rank.devices[:replicas]) for rank in stage.ranks),
        )
        for stage in run.plan.stages
    )
    micro_batches = taken(
        work.schedule,
        len(stages),
        -(-work.micro_batches * run.plan.replicas // replicas),
    )
    more = replace(work, micro_batches=micro_batches)
    fewer = replace(run.plan, stages=stages)
    return predict(run.config, fewer, run.inventory, more).step_seconds


def _smaller(run: Run, devices: int) -> float | None:
    """Return the step of one replica on so many of the plan's devices, None where none fits."""
    left = run.inventory.only(devices_used(run.plan, run.inventory)[:devices])
    found = fewer_stages(run.config, run.plan, run.predicted.workload, left, replicas=1)
    return None if found is None else predict(run.config, found[0], left, found[1]).step_seconds
