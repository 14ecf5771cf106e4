"""What there is to run on: the devices, their nodes, memory, speed and links. A value."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from moe.config.overrides import hint
from moe.errors import PlanError
from moe.planning.devices.links import ANY, LOOPBACK, NETWORK, Link, most_particular
from moe.planning.devices.needs import Labels, Resources, check_needs
from moe.planning.devices.pace import Pace, Profile
from moe.planning.devices.rates import AMD, CPU_THREAD, GPUS, vendor_of

CPU = "cpu"

_BACKENDS = ("CPU devices", "GPUs", "AMD GPUs")
"""Kinds of device by collective backend; ranks of different backends cannot talk to each other."""


@dataclass(frozen=True, slots=True)
class Device:
    """What holds one rank: a GPU, or some threads of a CPU.

    ``kind`` is ``cpu`` or a GPU model. ``speed`` is relative to what is known of the kind: its
    profile, or the data sheet of a GPU (``moe.planning.devices.rates``), or for a CPU one thread of
    the cost model. A GPU of which there is neither cannot be planned for. A CPU is ``threads``
    times as fast as one thread; beside a GPU they only feed it. A rank on it asks its cluster for
    ``resources`` and a node with ``labels``.
    """

    name: str
    node: str
    kind: str
    memory_bytes: int
    threads: int = 1
    speed: float = 1.0
    resources: Resources = ()
    labels: Labels = ()

    def __post_init__(self) -> None:
        for key in ("name", "node", "kind"):
            if not getattr(self, key):
                raise PlanError(f"a device has an empty {key}; give every device a {key}")
        for key in ("memory_bytes", "threads", "speed"):
            value = getattr(self, key)
            if not 0 < value < float("inf"):
                raise PlanError(
                    f"device {self.name} has {key} = {value}; give a finite number above 0"
                )
        check_needs(f"device {self.name}", self.resources, self.labels)

    @property
    def traits(self) -> tuple[object, ...]:
        """What makes two devices alike to a planner, wherever they are."""
        return self.kind, self.threads, self.memory_bytes, self.speed, self.needs

    @property
    def needs(self) -> tuple[Resources, Labels]:
        """What a rank on it asks of its node."""
        return self.resources, self.labels

    @property
    def link_key(self) -> tuple[str, str]:
        """What its links to other devices depend on."""
        return self.node, self.kind


@dataclass(frozen=True, slots=True)
class Inventory:
    """All devices a plan may use, in the order they are offered; links; what was measured."""

    devices: tuple[Device, ...]
    links: tuple[Link, ...] = ()
    profiles: tuple[Profile, ...] = ()

    def __post_init__(self) -> None:
        if not self.devices:
            raise PlanError("the inventory has no device; list at least one under [[devices]]")
        name, count = Counter(device.name for device in self.devices).most_common(1)[0]
        if count > 1:
            raise PlanError(
                f"the inventory names device {name} {count} times; give every device its own name"
            )
        nodes = {device.node for device in self.devices} | {ANY}
        for link in self.links:
            strange = sorted(set(link.nodes) - nodes)
            if strange:
                raise PlanError(
                    f"a link names node {strange[0]}, which no device is on; name a device's node "
                    'or "*" for any'
                )

    @property
    def of_cpus(self) -> bool:
        """Whether all devices are CPUs, whose memory also holds what a checkpoint copies."""
        return all(device.kind == CPU for device in self.devices)

    def device(self, name: str) -> Device:
        """Return one device by its name."""
        for device in self.devices:
            if device.name == name:
                return device
        known = ", ".join(device.name for device in self.devices)
        raise PlanError(
            f"the plan uses device {name}, the inventory has {known}; "
            "make the plan again for this inventory"
        )

    def nodes(self) -> Mapping[str, tuple[Device, ...]]:
        """Return the devices of each node, both in the order of the inventory."""
        nodes: dict[str, tuple[Device, ...]] = {}
        for device in self.devices:
            nodes[device.node] = (*nodes.get(device.node, ()), device)
        return nodes

    def link(self, one: Device, other: Device) -> Link:
        """Return what connects two devices: as listed, else as is usual for their kind."""
        listed = most_particular(self.links, one.node, other.node)
        if listed is not None:
            return listed
        if one.node != other.node:
            return NETWORK
        gpus = [GPUS[each.kind] for each in (one, other) if each.kind in GPUS]
        if len(gpus) < 2:
            return LOOPBACK
        return Link((ANY,), min(gpu.link_bytes_per_second for gpu in gpus), 1e-5)

    def pace(self, device: Device, half: bool = False) -> Pace:
        """Return how fast a device works, in ``half`` precision or float32, and how one knows."""
        for profile in self.profiles:
            if profile.kind == device.kind and (
                device.kind != CPU or profile.threads == device.threads
            ):
                rates = profile.rates.times(device.speed)
                return Pace(rates, profile.parts, profile.source or "measured")
        if device.kind in GPUS:
            rates = GPUS[device.kind].rates(half).times(device.speed)
            return Pace(rates, source=f"data sheet of {device.kind}")
        if device.kind != CPU:
            raise _unknown_kind(device)
        return Pace(CPU_THREAD.times(device.speed * device.threads), source="counted")

    def check_kinds(self) -> None:
        """Raise PlanError for the first device of whose speed nothing is known."""
        for device in {device.kind: device for device in reversed(self.devices)}.values():
            self.pace(device)

    def measured(self, profiles: Iterable[Profile], links: Iterable[Link] = ()) -> "Inventory":
        """Return the inventory with what was measured beside what it knew."""
        return replace(self, profiles=(*profiles, *self.profiles), links=(*links, *self.links))


def check_one_backend(what: str, devices: Iterable[tuple[str, str]]) -> None:
    """Raise PlanError where CPUs, GPUs of NVIDIA and of AMD are mixed: names with their kinds."""
    backends: dict[str, list[str]] = {}
    for name, kind in devices:
        backends.setdefault(_backend(kind), []).append(name)
    if len(backends) > 1:
        order = sorted(backends.items(), key=lambda each: _BACKENDS.index(each[0]))
        found = [f"{backend} ({len(names)}, the first is {names[0]})" for backend, names in order]
        raise PlanError(
            f"{what} has {' and '.join(found)}, whose ranks cannot talk to each other (gloo, nccl, "
            "rccl); keep the devices of one backend"
        )


def _backend(kind: str) -> str:
    if kind == CPU:
        return _BACKENDS[0]
    return _BACKENDS[2] if vendor_of(kind) == AMD else _BACKENDS[1]


def _unknown_kind(device: Device) -> PlanError:
    return PlanError(
        f"device {device.name} is of kind {device.kind!r}, which is not known "
        f"({hint(device.kind.upper(), GPUS)}); correct the kind, or measure such a device with "
        "`raymoe profile` and plan with --profile FILE"
    )
