"""What a person fixes of a plan by hand; the search decides the rest."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from moe.config.overrides import hint
from moe.errors import PlanError

OBJECTIVES = ("step", "tokens", "memory")
"""The least seconds of a step; serving: the most tokens held; the least memory of any device."""

_COUNTS = ("stages", "gang", "replicas", "micro_batch")
_LISTS = ("layers", "recompute")


@dataclass(frozen=True, slots=True)
class Pins:
    """Parts of a plan that are given; None leaves one open.

    ``layers`` and ``recompute`` count layers of each stage, those recomputed being its first;
    ``order`` names the first device of each stage.
    """

    stages: int | None = None
    gang: int | None = None
    replicas: int | None = None
    micro_batch: int | None = None
    layers: tuple[int, ...] | None = None
    recompute: tuple[int, ...] | None = None
    order: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for key in _COUNTS:
            value = getattr(self, key)
            if value is not None and value < 1:
                raise PlanError(f"{key} is pinned to {value}; pin it to at least 1")
        lengths = {
            key: len(value)
            for key in (*_LISTS, "order")
            if (value := getattr(self, key)) is not None
        }
        if self.stages is not None:
            lengths["stages"] = self.stages
        if len(set(lengths.values())) > 1:
            shown = ", ".join(f"{key} {length}" for key, length in lengths.items())
            raise PlanError(
                f"the pins speak of unlike numbers of stages ({shown}); make them agree"
            )
        if self.layers is not None and min(self.layers, default=0) < 1:
            raise PlanError(f"layers are pinned to {list(self.layers)}; a stage holds at least one")
        if self.recompute is not None and self.layers is None:
            raise PlanError(
                "recompute is pinned but layers are not; pin the layers of each stage too"
            )
        if self.recompute is not None and any(
            not 0 <= again <= held
            for again, held in zip(self.recompute, self.layers or (), strict=True)
        ):
            raise PlanError(
                f"recompute is pinned to {list(self.recompute)} of {list(self.layers or ())} "
                "layers; a stage recomputes none to all of its layers"
            )

    @property
    def depth(self) -> int | None:
        """The number of stages, as far as any pin tells."""
        for given in (self.layers, self.order):
            if given is not None:
                return len(given)
        return self.stages


NO_PINS = Pins()


def parse_pins(written: Iterable[str]) -> Pins:
    """Read pins written ``stages=4``, ``layers=15,15`` or ``order=a/0,b/0``."""
    known = [field.name for field in fields(Pins)]
    found: dict[str, Any] = {}
    for pin in written:
        key, _, value = pin.partition("=")
        if key not in known:
            raise PlanError(f"no pin {key!r} in {pin!r}; {hint(key, known)}")
        if key in found:
            raise PlanError(f"{key} is pinned twice; pin it once")
        found[key] = _value(key, pin, value)
    return Pins(**found)


def _value(key: str, pin: str, value: str) -> Any:
    if key == "order":
        return tuple(value.split(","))
    try:
        numbers = tuple(int(each) for each in value.split(","))
    except ValueError:
        raise PlanError(f"the pin {pin!r} has no whole numbers; write it like {key}=4") from None
    if key in _COUNTS and len(numbers) != 1:
        raise PlanError(f"the pin {pin!r} has {len(numbers)} numbers; {key} is one")
    return numbers[0] if key in _COUNTS else numbers
