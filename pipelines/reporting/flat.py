"""The numbers of a journal as flat names and values, for other tools: every step, none joined."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.journal import records
from pipelines.reporting.bins import number
from pipelines.reporting.recorded import EVENTS, SCALARS

_BY_LAYER = ("drop_rate", "coefficient", "sharpness", "balance_loss", "similarity")


@dataclass(frozen=True, slots=True)
class Numbers:
    """The numbers of a step; ``moment`` in seconds since 1970, None where it was not recorded."""

    step: int
    moment: float | None
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Told:
    """An event in words, after ``step`` steps."""

    kind: str
    step: int
    moment: float | None
    text: str


def flat(journal: Path) -> Iterator[Numbers | Told]:
    """Yield the steps and events of a journal, in order; what is no finite number is left out."""
    step = 0
    for record in records(journal):
        moment = number(record.get("time"))
        kind = record.get("event")
        if kind is not None:
            if kind in EVENTS:
                yield Told(kind, step, moment, _words(record))
            continue
        at = number(record.get("step"))
        if at is not None:
            step = int(at)
            yield Numbers(step, moment, dict(_values(record)))


def _values(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name in SCALARS:
        value = number(record.get(name))
        if value is not None:
            yield name, value
    layers = record.get("layers")
    for layer, told in layers.items() if isinstance(layers, Mapping) else ():
        for name in _BY_LAYER if isinstance(told, Mapping) and str(layer).isdecimal() else ():
            value = number(told.get(name))
            if value is not None:
                yield f"{name}/layer_{int(layer):03d}", value


def _words(record: Mapping[str, Any]) -> str:
    """Return an event's own words, without its scene."""
    left = ("event", "time", "ranks_by_node", "spares", "epoch", "mark")
    return ", ".join(f"{key}: {value}" for key, value in record.items() if key not in left)
