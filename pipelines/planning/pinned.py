"""What is fixed by hand, from ``--pin`` and from options of their own; they must not disagree."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from moe.errors import ConfigError
from moe.planning.plan.other_systems import read_megatron
from moe.planning.search.pins import Pins, parse_pins


def pins_from(written: Sequence[str], options: Sequence[tuple[str, str, Any]]) -> Pins:
    """Return the pins of ``--pin`` with those of options: (option, key, value or None)."""
    pins = parse_pins(written)
    for option, key, value in options:
        if value is None:
            continue
        pinned = getattr(pins, key)
        if pinned not in (None, value):
            raise ConfigError(
                f"{option} gives {key} = {_shown(value)}, another option pins it to "
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
            f"--any-replicas leaves open what --pin replicas={pins.replicas} fixes; give only one"
        )
    return pins


def layers_of_layout(text: str | None, layers: int) -> tuple[int, ...] | None:
    """Return the layers of each stage in a Megatron layout."""
    if text is None:
        return None
    return tuple(stop - start for start, stop in read_megatron(text, layers))


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
