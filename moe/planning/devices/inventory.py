"""The inventory: devices with their nodes, memory, speed and links. A value."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from moe.config.overrides import hint
from moe.errors import PlanError
from moe.planning.devices.links import ANY, LOOPBACK, NETWORK, Link, most_particular
from moe.planning.devices.needs import Labels, Resources, check_needs
from moe.planning.devices.pace import PRECISIONS, Pace, Profile
from moe.planning.devices.rates import AMD, CPU_THREAD, GPUS, vendor_of

CPU = "cpu"

_BACKENDS = ("CPU devices", "GPUs", "AMD GPUs")
"""Kinds of device by collective backend; ranks of different backends cannot communicate."""


@dataclass(frozen=True, slots=True)
class Device:
    """What holds one rank: a GPU, or some threads of a CPU.

    ``kind`` is ``cpu`` or a GPU model. ``speed`` is relative to the known rates of the kind: its
    profile, the data sheet of a GPU (``moe.planning.devices.rates``), or for a CPU one thread of
    the cost model. A GPU with neither profile nor data sheet cannot be planned for. A CPU is
    ``threads`` times as fast as one thread; the threads of a GPU only feed the GPU. A rank on the
    device asks its cluster for ``resources`` and for a node with ``labels``. ``accelerator`` is the
    word with which Ray marks the node of a GPU; empty: the usual word for its kind. ``host_bytes``
    is the part of its node's memory that a rank on a GPU may take; 0: unknown, and not planned.
    """

    name: str
    node: str
    kind: str
    memory_bytes: int
    threads: int = 1
    speed: float = 1.0
    resources: Resources = ()
    labels: Labels = ()
    accelerator: str = ""
    host_bytes: int = 0

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
        if self.host_bytes < 0 or (self.kind == CPU and (self.accelerator or self.host_bytes)):
            raise PlanError(
                f"device {self.name} of kind {self.kind} has accelerator = {self.accelerator!r} "
                f"and host_bytes = {self.host_bytes}; they are for GPUs, host_bytes from 0 on"
            )
        check_needs(f"device {self.name}", self.resources, self.labels)

    @property
    def traits(self) -> tuple[object, ...]:
        """The properties by which a planner compares devices, without their location."""
        return self.kind, self.threads, self.memory_bytes, self.host_bytes, self.speed, self.needs

    @property
    def needs(self) -> tuple[Resources, Labels, str]:
        """The resources, the labels and the accelerator that a rank on it asks of its node."""
        return self.resources, self.labels, self.accelerator

    @property
    def link_key(self) -> tuple[str, str]:
        """The key on which links to other devices depend."""
        return self.node, self.kind


@dataclass(frozen=True, slots=True)
class Inventory:
    """All devices that a plan may use, in order; their links; their profiles."""

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
        """Return the link between two devices: the listed link, or else the default."""
        listed = most_particular(self.links, one.node, other.node)
        if listed is not None:
            return listed
        if one.node != other.node:
            return NETWORK
        gpus = [GPUS[each.kind] for each in (one, other) if each.kind in GPUS]
        if len(gpus) < 2:
            return LOOPBACK
        return Link((ANY,), min(gpu.link_bytes_per_second for gpu in gpus), 1e-5)

    def profile(self, device: Device, sixteen_bit: bool) -> Profile | None:
        """Return the profile of a device for products of a precision; None without one."""
        precision = PRECISIONS[sixteen_bit]
        for profile in self._profiles_of(device):
            if profile.precision == precision:
                return profile
        return None

    def pace(self, device: Device, sixteen_bit: bool = False) -> Pace:
        """Return the pace of a device, for 16-bit or float32 products, with its source."""
        profile = self.profile(device, sixteen_bit)
        if profile is not None:
            rates = profile.rates.times(device.speed)
            return Pace(rates, profile.parts, profile.source or "measured")
        if device.kind in GPUS:
            rates = GPUS[device.kind].rates(sixteen_bit).times(device.speed)
            return Pace(rates, source=f"data sheet of {device.kind}")
        if device.kind != CPU:
            raise _unknown_kind(device, [each.precision for each in self._profiles_of(device)])
        return Pace(CPU_THREAD.times(device.speed * device.threads), source="counted")

    def strength(self, device: Device) -> float:
        """Return FLOP/s by which devices are compared: in float32 or, if unknown, in 16 bits."""
        known = device.kind in GPUS or device.kind == CPU or self.profile(device, False)
        return self.pace(device, sixteen_bit=not known).rates.flops_per_second

    def check_kinds(self) -> None:
        """Raise PlanError for the first device of unknown speed."""
        for device in {device.kind: device for device in reversed(self.devices)}.values():
            self.strength(device)

    def cautions(self, sixteen_bit: bool) -> tuple[str, ...]:
        """Return, for each kind of device without a profile, what its seconds are taken from."""
        unlike = {_what(device): device for device in reversed(self.devices)}
        return tuple(
            f"no profile of {_what(device)} in {PRECISIONS[sixteen_bit]}: its seconds are "
            f"{_ASSUMED[device.kind == CPU]}; measure it with `raymoe profile`"
            for device in unlike.values()
            if self.profile(device, sixteen_bit) is None
        )

    def _profiles_of(self, device: Device) -> list[Profile]:
        return [
            profile
            for profile in self.profiles
            if profile.kind == device.kind
            and (device.kind != CPU or profile.threads == device.threads)
        ]

    def only(self, devices: Iterable[Device]) -> "Inventory":
        """Return the inventory of some of its devices, without links to nodes that have none."""
        kept = tuple(devices)
        nodes = {device.node for device in kept} | {ANY}
        links = tuple(link for link in self.links if nodes.issuperset(link.nodes))
        return replace(self, devices=kept, links=links)

    def measured(self, profiles: Iterable[Profile], links: Iterable[Link] = ()) -> "Inventory":
        """Return the inventory with added profiles and links."""
        return replace(self, profiles=(*profiles, *self.profiles), links=(*links, *self.links))


def check_one_backend(what: str, devices: Iterable[tuple[str, str]]) -> None:
    """Raise PlanError if CPUs, NVIDIA GPUs and AMD GPUs are mixed; ``devices`` gives the kind by
    name.
    """
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


def _what(device: Device) -> str:
    """Return what a profile measures, in words: the threads of a GPU only feed it."""
    if device.kind != CPU:
        return device.kind
    return f"{CPU} of {device.threads} {'thread' if device.threads == 1 else 'threads'}"


_ASSUMED = (
    "those of its data sheet, at the part of the peak that one run on A800 reached",
    "counted for a thread of a server CPU with AVX-512, and others differ several times",
)
"""What stands for a profile: of a GPU, of a CPU."""


def _unknown_kind(device: Device, measured: Sequence[str]) -> PlanError:
    if measured:
        return PlanError(
            f"device {device.name} is of kind {device.kind!r}, which was measured in "
            f"{' and '.join(measured)} alone; measure it in the precision of the plan with "
            "`raymoe profile`"
        )
    return PlanError(
        f"device {device.name} is of kind {device.kind!r}, which is unknown "
        f"({hint(device.kind.upper(), GPUS)}); correct the kind, or measure such a device with "
        "`raymoe profile` and plan with --profile FILE"
    )
