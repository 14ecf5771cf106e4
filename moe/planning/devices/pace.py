"""The pace of a device for counted work: its rates, corrected by measurements.

A profile (``raymoe profile``) holds seconds of each part of a model, by tokens of a micro-batch.
The correction is measured over counted time, so it also applies to slices of a layer, to other
sequence lengths and, with less certainty, to other models. Between two measured sizes the
correction is interpolated; outside them the nearest size is used. A part without measurement gets
the mean correction of the measured products.

    [[profiles]]
    kind = "cpu"
    threads = 1
    precision = "float32"                   # optional, float32; or bf16
    source = "raymoe profile, SmolLM2-135M, 2 ranks at once"
    flops_per_second = 1.4e11
    bytes_per_second = 1.25e10
    input_flops_per_second = 1.4e11         # optional, as forward
    weight_flops_per_second = 1.2e11        # optional, as forward
    [[profiles.parts]]
    part = "dense"
    tokens = 512
    forward = 0.027
    backward = 0.057
    counted_forward = 0.028
    counted_backward = 0.060
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any

from moe.config.overrides import hint
from moe.errors import PlanError
from moe.planning import tables
from moe.planning.counts.passes import Passes, Work
from moe.planning.counts.work import PARTS
from moe.planning.counts.workload import BF16, FLOAT32
from moe.planning.devices.rates import Rates

PRECISIONS = (FLOAT32.name, BF16.name)
"""Precisions of products that are measured, each on its own."""

_PRODUCTS = ("dense", "moe", "head")
_SECONDS = ("forward", "backward", "counted_forward", "counted_backward")


@dataclass(frozen=True, slots=True)
class Measured:
    """Measured and counted seconds of one part, for a micro-batch of ``tokens`` tokens."""

    part: str
    tokens: int
    forward: float
    backward: float
    counted_forward: float
    counted_backward: float

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise PlanError(f"a profile measures {self.part}; known parts: {', '.join(PARTS)}")
        times = [getattr(self, key) for key in _SECONDS]
        if self.tokens < 1 or not all(isfinite(time) and time >= 0 for time in times):
            raise PlanError(
                f"the profile of {self.part} has {self.tokens} tokens and times {times}; "
                "give tokens above 0 and finite seconds"
            )


@dataclass(frozen=True, slots=True)
class Profile:
    """The measurements of one kind of device; for a CPU, with ``threads`` threads.

    ``precision`` is that of the products; a profile tells nothing of the other.
    """

    kind: str
    threads: int
    rates: Rates
    parts: tuple[Measured, ...] = ()
    source: str = ""
    precision: str = FLOAT32.name

    def __post_init__(self) -> None:
        rates = (self.rates.flops_per_second, self.rates.bytes_per_second)
        if not all(isfinite(rate) and rate > 0 for rate in rates):
            raise PlanError(
                f"the profile of {self.kind} has rates {rates}; give finite numbers above 0"
            )
        more = (self.rates.input_flops_per_second, self.rates.weight_flops_per_second)
        if not all(isfinite(rate) and rate >= 0 for rate in more):
            raise PlanError(
                f"the profile of {self.kind} has rates {more} of backward products; give finite "
                "numbers, 0 where they were not measured"
            )
        if self.precision not in PRECISIONS:
            raise PlanError(
                f"the profile of {self.kind} is of precision {self.precision!r}; "
                f"{hint(self.precision, PRECISIONS)}"
            )


@dataclass(frozen=True, slots=True)
class Pace:
    """Rates of one device, all its threads together, with the corrections of its profile.

    ``source`` names the origin of the rates.
    """

    rates: Rates
    parts: tuple[Measured, ...] = ()
    source: str = "counted"
    _curves: Mapping[tuple[str, bool], tuple[Sequence[int], Sequence[float]]] = field(
        init=False, repr=False, compare=False
    )
    _backward_rate: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_backward_rate", self.rates.backward_flops_per_second)
        curves = {
            (part, backward): _curve([each for each in self.parts if each.part == part], backward)
            for part in {each.part for each in self.parts}
            for backward in (False, True)
        }
        object.__setattr__(self, "_curves", curves)

    def seconds(self, part: str, passes: Passes, tokens: int) -> tuple[float, float]:
        """Return the seconds of a micro-batch, forward and backward."""
        rates = self.rates
        return (
            self._counted(passes.forward, rates.flops_per_second)
            * self._correction(part, False, tokens),
            self._counted(passes.backward, self._backward_rate)
            * self._correction(part, True, tokens),
        )

    def once(self, part: str, work: Work) -> float:
        """Return the seconds of work that is done once per step."""
        return self._counted(work, self.rates.flops_per_second) * self._correction(part, False, 1)

    def _counted(self, work: Work, flops_per_second: float) -> float:
        return work.flops / flops_per_second + work.bytes / self.rates.bytes_per_second

    def _correction(self, part: str, backward: bool, tokens: int) -> float:
        curve = self._curves.get((part, backward))
        if curve is None:
            return self._usual(backward, tokens)
        sizes, ratios = curve
        after = bisect_left(sizes, tokens)
        if after == 0 or after == len(sizes):
            return ratios[min(after, len(sizes) - 1)]
        low, high = sizes[after - 1], sizes[after]
        weight = (tokens - low) / (high - low)
        return ratios[after - 1] * (1 - weight) + ratios[after] * weight

    def _usual(self, backward: bool, tokens: int) -> float:
        """Return the mean correction of the measured products, for parts without measurement."""
        known = [part for part in _PRODUCTS if (part, backward) in self._curves]
        if not known:
            return 1.0
        return sum(self._correction(part, backward, tokens) for part in known) / len(known)


def to_tables(profiles: Sequence[Profile]) -> list[dict[str, Any]]:
    """Return profiles as plain tables for TOML."""
    return [
        {
            "kind": each.kind,
            "threads": each.threads,
            "precision": each.precision,
            "source": each.source,
            **{key: rate for key, rate in asdict(each.rates).items() if rate},
            "parts": [asdict(part) for part in each.parts],
        }
        for each in profiles
    ]


def from_table(table: Mapping[str, Any]) -> Profile:
    """Return one profile, read strictly."""
    label = f"profile of {table.get('kind', 'a device')}"
    required = ("kind", "threads", "flops_per_second", "bytes_per_second")
    of_backward = ("input_flops_per_second", "weight_flops_per_second")
    tables.check_keys(label, table, required, ("parts", "source", "precision", *of_backward))
    parts = tables.entries(label, "parts", table.get("parts", ()))
    return Profile(
        kind=tables.text(label, "kind", table["kind"]),
        threads=tables.whole(label, "threads", table["threads"]),
        rates=Rates(
            tables.number(label, "flops_per_second", table["flops_per_second"]),
            tables.number(label, "bytes_per_second", table["bytes_per_second"]),
            *(tables.number(label, key, table.get(key, 0.0)) for key in of_backward),
        ),
        parts=tuple(_measured(label, part) for part in parts),
        source=tables.text(label, "source", table.get("source", "")),
        precision=tables.text(label, "precision", table.get("precision", FLOAT32.name)),
    )


def _measured(label: str, table: Mapping[str, Any]) -> Measured:
    tables.check_keys(label, table, ("part", "tokens", *_SECONDS))
    return Measured(
        tables.text(label, "part", table["part"]),
        tables.whole(label, "tokens", table["tokens"]),
        *(tables.number(label, key, table[key]) for key in _SECONDS),
    )


def _curve(parts: Sequence[Measured], backward: bool) -> tuple[Sequence[int], Sequence[float]]:
    """Return token counts in order, and measured over counted seconds at each."""
    way = "backward" if backward else "forward"
    ratios = {
        each.tokens: getattr(each, way) / getattr(each, f"counted_{way}")
        for each in parts
        if getattr(each, f"counted_{way}") > 0
    }
    sizes = sorted(ratios) or [1]
    return sizes, [ratios.get(size, 1.0) for size in sizes]
