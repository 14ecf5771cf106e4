"""Plays a trace of failures as a run would live through it, and returns the use of its time.

To first order, with failures every M seconds and a save of S seconds every I (Young 1974):
ratio = 1 - S/I - (I/2 + recovery)/M, best at I = sqrt(2 S M).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from random import Random

from moe.errors import PlanError
from moe.planning.failures.goodput import Goodput
from moe.planning.failures.recovery import POLICIES, Policy
from moe.planning.failures.run import SimulatedRun, Steps
from moe.planning.failures.stretch import NANO, nano
from moe.planning.failures.traces import Trace

StepSeconds = Callable[[int], float | None]


def simulate_run(
    trace: Trace,
    policy: Policy,
    step_seconds: StepSeconds,
    devices: int,
    seed: int = 0,
    nodes: Sequence[str] = (),
) -> Goodput:
    """Play the trace against the policy, from step 0 on ``devices`` devices.

    ``step_seconds`` returns the step time of the best plan on at most the given number of devices,
    None if there is no plan. The run never uses more than ``devices``; more are spares. ``seed``
    draws the lost devices that the trace does not name. ``nodes`` names the node of each device,
    which says who holds whose copy; empty: each device is a node of its own.
    """
    if nodes and len(nodes) != devices:
        raise PlanError(f"{len(nodes)} nodes for {devices} devices; name one for each, or none")
    places = nodes or tuple(map(str, range(devices)))
    run = SimulatedRun(policy, _nanoseconds(step_seconds), places, Random(seed))
    for event in trace.events:
        run.advance(nano(event.seconds))
        run.apply(event)
    return run.finish(nano(trace.horizon_seconds))


def compare(
    trace: Trace,
    step_seconds: StepSeconds,
    devices: int,
    policies: Mapping[str, Policy] = POLICIES,
    nodes: Sequence[str] = (),
) -> tuple[tuple[str, Goodput], ...]:
    """Play one trace against each policy."""
    return tuple(
        (name, simulate_run(trace, policy, step_seconds, devices, nodes=nodes))
        for name, policy in policies.items()
    )


def _nanoseconds(step_seconds: StepSeconds) -> Steps:
    """Return a cached function for the step in nanoseconds; 0 if there is no plan."""

    @cache
    def step(devices: int) -> int:
        seconds = step_seconds(devices) if devices else None
        if seconds is not None and not 1 / NANO <= seconds < math.inf:
            raise PlanError(f"a step on {devices} devices takes {seconds} s; give 1 ns or more")
        return 0 if seconds is None else nano(seconds)

    return step
