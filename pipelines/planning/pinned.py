"""What is fixed by hand, from ``--pin`` and from options of their own; they must not disagree."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from moe.errors import ConfigError
from moe.planning.plan.other_systems import read_megatron
from moe.planning.search.pins import Pins, parse_pins

_OPTIONS = {
    "stages": "--stages",
    "gang": "--gang",
    "micro_batch": "--micro-batch",
    "layers": "--layout",
}
"""Pins that have an option of their own."""


def pins_from(written: Sequence[str], given: Mapping[str, Any]) -> Pins:
    """Return the pins of ``--pin`` with the values, by key, of options of their own, or None."""
    pins = parse_pins(written)
    for key, value in given.items():
        if value is None:
            continue
        pinned = getattr(pins, key)
        if pinned not in (None, value):
            raise ConfigError(
                f"{_OPTIONS[key]} gives {key} = {_shown(value)}, --pin gives {key} = "
                f"{_shown(pinned)}; give one of the two"
            )
        pins = replace(pins, **{key: value})
    return pins


def replicas_of(pins: Pins, any_replicas: bool) -> Pins:
    """Return the pins with one replica where none are given and not any number is asked for."""
    if not any_replicas:
        return pins if pins.replicas else replace(pins, replicas=1)
    if pins.replicas:
        raise ConfigError(
            f"--any-replicas searches what --pin replicas={pins.replicas} fixes; give one of them"
        )
    return pins


def layers_of_layout(text: str | None, layers: int) -> tuple[int, ...] | None:
    """Return the layers of each stage in a Megatron layout."""
    if text is None:
        return None
    return tuple(stop - start for start, stop in read_megatron(text, layers))


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
