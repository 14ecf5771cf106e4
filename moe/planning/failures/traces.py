"""Traces of lost and joined devices: as values, drawn at random, and as files.

A trace is drawn (``poisson``: independent failures; ``spot``: preemptions that come in bursts) or
read. The file is CSV; the last row gives the end of the trace, and only it may have no lost or
joined devices:

    seconds,lost,joined,devices      # devices is optional: who was lost, then who joined
    40.5,1,0,3
    61.0,2,1,0 1 3                   # 0 and 1 lost, 3 back
    86400.0,0,0,
"""

import csv
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random

from moe.errors import PlanError

HEADER = ("seconds", "lost", "joined")
DEVICES = "devices"
REMEDY = f"write a first line {','.join(HEADER)} or {','.join((*HEADER, DEVICES))}"


@dataclass(frozen=True, slots=True)
class Event:
    """Devices lost at a moment, then devices joined.

    ``devices`` are the numbers of the lost, then of the joined, counted from 0 as the run counts
    its own; empty where the trace does not know. A process that dies on a device that stays is
    one lost and one joined, of the same number.
    """

    seconds: float
    lost: int
    joined: int
    devices: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.seconds < math.inf:
            raise PlanError(f"an event is at {self.seconds} s; give a finite time from 0 on")
        if self.lost < 0 or self.joined < 0 or self.lost + self.joined == 0:
            raise PlanError(
                f"the event at {self.seconds} s has {self.lost} lost and {self.joined} joined; "
                "give counts from 0 on, one of them above 0"
            )
        if self.devices and len(self.devices) != self.lost + self.joined:
            raise PlanError(
                f"the event at {self.seconds} s names {len(self.devices)} devices but has "
                f"{self.lost} lost and {self.joined} joined; name all of them or none"
            )
        for named in (self.lost_devices, self.joined_devices):
            if len(set(named)) < len(named) or min(named, default=0) < 0:
                raise PlanError(
                    f"the event at {self.seconds} s names devices {named}; "
                    "name each once, by a number from 0 on"
                )

    @property
    def lost_devices(self) -> tuple[int, ...]:
        """Numbers of the lost devices; empty where unknown."""
        return self.devices[: self.lost]

    @property
    def joined_devices(self) -> tuple[int, ...]:
        """Numbers of the joined devices; empty where unknown."""
        return self.devices[self.lost :]


@dataclass(frozen=True, slots=True)
class Trace:
    """Events in the order of time, from 0 to ``horizon_seconds``."""

    events: tuple[Event, ...]
    horizon_seconds: float

    def __post_init__(self) -> None:
        if not 0 < self.horizon_seconds < math.inf:
            raise PlanError(
                f"the trace ends at {self.horizon_seconds} s; give a finite time above 0"
            )
        for before, after in pairwise(self.events):
            if after.seconds < before.seconds:
                raise PlanError(
                    f"the event at {after.seconds} s follows that at {before.seconds} s; "
                    "order the events by time"
                )
        if self.events and self.events[-1].seconds > self.horizon_seconds:
            raise PlanError(
                f"an event is at {self.events[-1].seconds} s, after the end of the trace at "
                f"{self.horizon_seconds} s; raise the end or leave the event out"
            )

    @property
    def losses(self) -> int:
        """Moments at which something was lost."""
        return sum(event.lost > 0 for event in self.events)

    @property
    def mtbf_seconds(self) -> float:
        """Mean time between two losses anywhere in the cluster; infinite without losses."""
        return self.horizon_seconds / self.losses if self.losses else math.inf


@dataclass(frozen=True, slots=True)
class SpotMarket:
    """Parameters of a synthetic spot market; all means are of exponential or geometric draws.

    ``burst_interval_seconds`` between two bursts, ``burst_size`` devices lost in one (neighbours by
    number, as they share a node or a zone), each within ``burst_spread_seconds`` of its start; a
    lost device comes back after ``return_seconds``.
    """

    burst_interval_seconds: float = 1800.0
    burst_size: float = 2.0
    burst_spread_seconds: float = 30.0
    return_seconds: float = 600.0

    def __post_init__(self) -> None:
        _positive("burst_interval_seconds", self.burst_interval_seconds)
        _positive("return_seconds", self.return_seconds)
        if not 1 <= self.burst_size < math.inf:
            raise PlanError(f"burst_size is {self.burst_size}; give a finite mean from 1 on")
        _not_negative("burst_spread_seconds", self.burst_spread_seconds)


class Presence:
    """The present devices while a trace is played: numbers 0 to ``devices`` - 1, and spares.

    A device that joins takes its own number if the trace gives it and the number is free, else the
    lowest free number. If no number is free, the device is a spare and takes the number of the next
    device that is lost. Which device is lost is drawn by ``random``, with equal chances, where the
    trace does not say.
    """

    def __init__(self, devices: int, random: Random) -> None:
        self.present = frozenset(range(devices))
        self._devices = devices
        self._spares = 0
        self._random = random

    def lose(self, event: Event) -> frozenset[int]:
        """Remove the lost devices and return their numbers; spares have no number."""
        there = len(self.present) + self._spares
        if event.lost > there:
            raise PlanError(
                f"the trace loses {event.lost} devices at {event.seconds} s but {there} are there; "
                "start with more devices or correct the trace"
            )
        named = frozenset(event.lost_devices)
        if absent := sorted(named - self.present):
            raise PlanError(
                f"the trace loses device {absent[0]} at {event.seconds} s but it is not there: "
                f"{len(self.present)} of devices 0 to {self._devices - 1} are; "
                "start with more devices or correct the trace"
            )
        lost = named or self._draw(event.lost)
        self.present -= lost
        return lost

    def join(self, event: Event) -> None:
        """Add the joined devices; spares take free numbers."""
        free = set(range(self._devices)) - self.present if event.joined or self._spares else set()
        own = free.intersection(event.joined_devices)
        self._spares += event.joined - len(own)
        filled = sorted(free - own)[: self._spares]
        self._spares -= len(filled)
        self.present |= own.union(filled)

    def _draw(self, count: int) -> frozenset[int]:
        drawn = self._random.sample(range(len(self.present) + self._spares), count)
        present = sorted(self.present) if count else []
        self._spares -= sum(number >= len(present) for number in drawn)
        return frozenset(present[number] for number in drawn if number < len(present))


def poisson(
    devices: int,
    cluster_mtbf_seconds: float,
    horizon_seconds: float,
    seed: int,
    repair_seconds: float = 0.0,
) -> Trace:
    """Draw independent failures, with equal chances for every device.

    The mean time between failures is that of the whole cluster while all devices are up: one device
    fails ``devices`` times more rarely. A device is back after ``repair_seconds``; with 0 only its
    process died. A device that is down does not fail.
    """
    _positive("devices", devices)
    _positive("cluster_mtbf_seconds", cluster_mtbf_seconds)
    _not_negative("repair_seconds", repair_seconds)
    random = Random(seed)
    times = _arrivals(random, cluster_mtbf_seconds, horizon_seconds)
    hits = [(seconds, random.randrange(devices)) for seconds in times]
    return Trace(tuple(_outages(hits, lambda: repair_seconds, horizon_seconds)), horizon_seconds)


def spot(devices: int, market: SpotMarket, horizon_seconds: float, seed: int) -> Trace:
    """Draw preemptions in bursts and returns after a while: synthetic, modelled on no provider."""
    _positive("devices", devices)
    random = Random(seed)
    hits = []
    for seconds in _arrivals(random, market.burst_interval_seconds, horizon_seconds):
        first = random.randrange(devices)
        for offset in range(min(_geometric(random, market.burst_size), devices)):
            delay = random.uniform(0.0, market.burst_spread_seconds)
            hits.append((seconds + delay, (first + offset) % devices))
    outage = 1.0 / market.return_seconds
    events = _outages(sorted(hits), lambda: random.expovariate(outage), horizon_seconds)
    return Trace(tuple(events), horizon_seconds)


def save_trace(trace: Trace, path: Path) -> None:
    """Write a trace as CSV, with the devices where any event names them."""
    named = any(event.devices for event in trace.events)
    header = (*HEADER, DEVICES) if named else HEADER
    rows: list[tuple[object, ...]] = [
        (event.seconds, event.lost, event.joined, " ".join(map(str, event.devices)))
        for event in trace.events
    ]
    rows.append((trace.horizon_seconds, 0, 0, ""))
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([header, *(row[: len(header)] for row in rows)])
    except OSError as error:
        raise PlanError(f"cannot write the trace to {path}: {error.strerror}") from error


def load_trace(path: Path) -> Trace:
    """Read a trace from CSV; PlanError names the line that is wrong."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _trace(_rows(file))
    except FileNotFoundError:
        raise PlanError(f"no trace at {path}; {REMEDY}, then a line per event") from None
    except UnicodeDecodeError as error:
        raise PlanError(f"{path} is not text: {error}; {REMEDY}") from error
    except OSError as error:
        raise PlanError(f"cannot read the trace {path}: {error.strerror}") from error
    except PlanError as error:
        raise PlanError(f"trace {path}: {error}") from None


def _rows(file: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield line numbers and fields, after a header that is known; empty lines do not count."""
    reader = csv.reader(file, strict=True)
    width = 0
    try:
        for row in reader:
            if not row:
                continue
            if not width:
                width = len(row)
                if tuple(row) not in (HEADER, (*HEADER, DEVICES)):
                    raise PlanError(f"line {reader.line_num} is {','.join(row)!r}; {REMEDY}")
            elif len(row) != width:
                raise PlanError(
                    f"line {reader.line_num} has {len(row)} fields, the header {width}; "
                    "give each line as many"
                )
            else:
                yield reader.line_num, row
    except csv.Error as error:
        raise PlanError(f"line {reader.line_num} is not CSV: {error}") from error
    if not width:
        raise PlanError(f"the file is empty; {REMEDY}")


def _trace(rows: Iterator[tuple[int, list[str]]]) -> Trace:
    events: list[Event] = []
    horizon = 0.0
    end = 0
    for line, row in rows:
        try:
            if end:
                raise PlanError(f"line {end} ends the trace (0 lost, 0 joined); put it last")
            seconds, lost, joined = _seconds(row[0]), _count(row[1]), _count(row[2])
            if seconds < horizon:
                raise PlanError(f"{seconds} s comes after {horizon} s; order the lines by time")
            horizon = seconds
            if lost or joined:
                events.append(Event(seconds, lost, joined, tuple(_numbers(row[3:]))))
            else:
                end = line
        except PlanError as error:
            raise PlanError(f"line {line}: {error}") from None
    return Trace(tuple(events), horizon)


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise PlanError(f"seconds is {text!r}; give a number") from None


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise PlanError(f"{text!r} is not a count; give a whole number from 0 on")
    return int(text)


def _numbers(fields: Sequence[str]) -> Iterator[int]:
    return (_count(text) for field in fields for text in field.split())


def _arrivals(random: Random, mean_seconds: float, horizon_seconds: float) -> Iterator[float]:
    """Yield the times of a Poisson process."""
    _positive("horizon_seconds", horizon_seconds)
    seconds = random.expovariate(1.0 / mean_seconds)
    while seconds < horizon_seconds:
        yield seconds
        seconds += random.expovariate(1.0 / mean_seconds)


def _geometric(random: Random, mean: float) -> int:
    """Draw a whole number from 1 on with this mean."""
    if mean == 1:
        return 1
    return 1 + int(math.log(1.0 - random.random()) / math.log1p(-1.0 / mean))


def _outages(
    hits: Sequence[tuple[float, int]], outage: Callable[[], float], horizon: float
) -> list[Event]:
    """Return losses and returns of the devices hit, without the hits on devices that are down."""
    back: dict[int, float] = {}
    events = []
    for seconds, device in hits:
        if seconds >= horizon or seconds < back.get(device, 0.0):
            continue
        back[device] = seconds + outage()
        if back[device] == seconds:
            events.append(Event(seconds, 1, 1, (device, device)))
            continue
        events.append(Event(seconds, 1, 0, (device,)))
        if back[device] < horizon:
            events.append(Event(back[device], 0, 1, (device,)))
    return sorted(events, key=lambda event: event.seconds)


def _positive(what: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise PlanError(f"{what} is {value}; give a finite number above 0")


def _not_negative(what: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise PlanError(f"{what} is {value}; give a finite number from 0 on")
