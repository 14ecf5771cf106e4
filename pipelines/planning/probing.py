"""Measures each kind of node of a Ray cluster, before a plan is made and where no profile exists.

A task takes the devices of one node of the kind and measures a stand-in of the model on all of them
at once (``actors.profiling.quick``): about two seconds, once its processes have started. Nodes of
CPUs are of one kind if their processors have one name; GPUs if they are of one kind.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.profiling.machine import Found, measure
from actors.profiling.measure import Measuring
from actors.profiling.messages import link_of
from actors.profiling.profile import caution_of, profile_of
from actors.profiling.quick import quick
from cluster.nodes import Node
from moe.planning.counts.workload import NUMERICS
from moe.planning.devices.inventory import CPU, Device, Inventory
from moe.planning.devices.links import Link
from moe.planning.devices.pace import Profile
from pipelines.planning.wanted import Wanted

SECONDS = 90.0
"""How long a node may take to answer, with the wait for its devices."""

MOST_RANKS = 16
"""Ranks that measure at once; more start slowly, and share the memory of a node no worse."""

Kind = tuple[str, int, str]
"""Kind of device, its threads and its processor; of a GPU without these two."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What was measured: profiles, links, and the speed of kinds of node over that of a profile.

    ``notes`` say what was measured where, and what was not.
    """

    profiles: tuple[Profile, ...] = ()
    links: tuple[Link, ...] = ()
    speeds: Mapping[Kind, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def applied(self, there: Inventory, nodes: Sequence[Node]) -> Inventory:
        """Return devices with what was found of their kinds."""
        processors = _processors(nodes)
        devices = tuple(
            replace(each, speed=each.speed * self.speeds.get(_kind(each, processors), 1.0))
            for each in there.devices
        )
        return replace(there, devices=devices).measured(self.profiles, self.links)


@dataclass(frozen=True, slots=True)
class Probe:
    """One node that stands for its kind, and what it is asked to measure."""

    kind: Kind
    node: Node
    asked: Measuring

    @property
    def what(self) -> str:
        """The device in words."""
        kind, threads, processor = self.kind
        if kind != CPU:
            return kind
        named = f" ({processor})" if processor else ""
        return f"{kind} of {threads} {'thread' if threads == 1 else 'threads'}{named}"


def probed(
    there: Inventory, nodes: Sequence[Node], wanted: Wanted, seconds: float = SECONDS
) -> Findings:
    """Return what every kind of node measures within ``seconds``; what has a profile is left."""
    asked = probes(there, nodes, wanted)
    tasks = {_task(each): each for each in asked}
    done, late = ray.wait([*tasks], num_returns=len(tasks), timeout=seconds) if tasks else ([], [])
    answers: dict[Kind, tuple[Probe, tuple[Found, ...]]] = {}
    failures = {}
    for task in late:
        ray.cancel(task, force=True)
        failures[tasks[task].kind] = f"was not free, or not done, within {seconds:g} s"
    for task in done:
        try:
            answers[tasks[task].kind] = tasks[task], ray.get(task)
        except RayError as error:
            reason = error.cause if isinstance(error, RayTaskError) else error
            failures[tasks[task].kind] = f"could not measure: {reason}"
    found = findings([answers[each.kind] for each in asked if each.kind in answers])
    told = tuple(
        f"node {each.node.name} {failures[each.kind]}; {each.what} is planned without a measurement"
        for each in asked
        if each.kind in failures
    )
    return replace(found, notes=(*found.notes, *told))


def probes(there: Inventory, nodes: Sequence[Node], wanted: Wanted) -> list[Probe]:
    """Return the largest node of every kind without a profile, with what it is to measure."""
    by_name, processors = {node.name: node for node in nodes}, _processors(nodes)
    held: dict[Kind, dict[str, int]] = {}
    for device in there.devices:
        if there.profile(device, NUMERICS[wanted.numerics].sixteen_bit) is None:
            counts = held.setdefault(_kind(device, processors), {})
            counts[device.node] = counts.get(device.node, 0) + 1
    found = []
    for kind, counts in held.items():
        name = max(counts, key=lambda node: counts[node])
        ranks = min(counts[name], MOST_RANKS) if kind[0] == CPU else 1
        asked = quick(
            wanted.config,
            wanted.sequence_length,
            wanted.micro_batches,
            ranks,
            kind[1],
            wanted.precision,
        )
        asked = replace(asked, on_cpu=kind[0] == CPU)
        found.append(Probe(kind, by_name[name], asked))
    return found


def findings(answers: Sequence[tuple[Probe, tuple[Found, ...]]]) -> Findings:
    """Return profiles of what nodes found; of several processors, the first is the profile."""
    profiles: dict[tuple[str, int], Profile] = {}
    speeds: dict[Kind, float] = {}
    notes: list[str] = []
    for probe, found in answers:
        source = f"probed on {probe.node.name}, {probe.what}, {date.today()}"
        measured = replace(profile_of(probe.asked, found, source), kind=probe.kind[0])
        first = profiles.setdefault(probe.kind[:2], measured)
        if first is not measured:
            speeds[probe.kind] = _speed(measured) / _speed(first)
        notes += _told(probe, measured, found)
    wires = [each.wire for _, found in answers for each in found if each.wire is not None]
    links = (link_of(wires),) if wires else ()
    return Findings(tuple(profiles.values()), links, speeds, tuple(notes))


def _told(probe: Probe, profile: Profile, found: Sequence[Found]) -> Iterator[str]:
    rates = profile.rates
    roles = (rates.flops_per_second, rates.input_flops_per_second, rates.weight_flops_per_second)
    products = ", ".join(f"{each / 1e9:.4g}" for each in roles)
    yield (
        f"probed {probe.what} on {probe.node.name}, {len(found)} at once: {products} GFLOP/s in "
        f"{profile.precision} (forward, gradients of inputs, of weights), "
        f"{rates.bytes_per_second / 1e9:.3g} GB/s"
    )
    caution = caution_of(probe.asked, found)
    if caution is not None:
        yield f"caution: {caution}"


def _speed(profile: Profile) -> float:
    """Return how often a second all measured parts can be done once."""
    return 1 / sum(part.forward + part.backward for part in profile.parts)


def _processors(nodes: Sequence[Node]) -> dict[str, str]:
    return {node.name: node.processor for node in nodes}


def _kind(device: Device, processors: Mapping[str, str]) -> Kind:
    if device.kind != CPU:
        return device.kind, 1, ""
    return device.kind, device.threads, processors.get(device.node, "")


def _task(probe: Probe) -> Any:
    """Start the measuring on its node; it takes the devices that it measures."""
    task: Any = ray.remote(max_calls=1)(measure)
    placed = NodeAffinitySchedulingStrategy(probe.node.id, soft=False)
    return task.options(
        num_cpus=probe.asked.ranks * probe.asked.threads,
        num_gpus=0 if probe.kind[0] == CPU else 1,
        max_retries=0,
        scheduling_strategy=placed,
    ).remote(probe.asked)
