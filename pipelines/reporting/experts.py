"""What the routers of a run did, layer by layer: read from the key ``layers`` of its steps."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.reporting.bins import Curve, number

KINDS = ("drop_rate", "coefficient", "sharpness", "balance_loss", "overload", "similarity")
"""``overload`` is the load of the fullest expert over the mean of its layer."""

COLUMNS = 24
"""Columns of a map of layers over time: at most twice as many."""
PARTS = 2
"""Maps of the load over time: at most twice as many."""


class Loads:
    """The load of each expert, summed over a few consecutive parts of the run."""

    def __init__(self) -> None:
        self._parts: list[tuple[float, float, dict[int, list[float]]]] = []
        self._width = 1
        self._room = 0

    def add(self, step: float, loads: Mapping[int, Sequence[float]]) -> None:
        """Take the loads of a step, by layer."""
        if not self._room:
            self._make_room(step)
        start, _, sums = self._parts[-1]
        _join(sums, loads)
        self._parts[-1] = start, step, sums
        self._room -= 1

    @property
    def parts(self) -> list[tuple[float, float, dict[int, list[float]]]]:
        """First and last step of each part, and the share of each expert of the pairs of its layer,
        by layer; empty for a layer that nothing reached.
        """
        return [
            (start, stop, {layer: _shares(load) for layer, load in sorted(sums.items())})
            for start, stop, sums in self._parts
        ]

    def _make_room(self, step: float) -> None:
        if len(self._parts) == 2 * PARTS:
            pairs = zip(self._parts[::2], self._parts[1::2], strict=True)
            self._parts = [_joined(*pair) for pair in pairs]
            self._width *= 2
        self._parts.append((step, step, {}))
        self._room = self._width


class Experts:
    """Curves of each layer by kind, the same over all layers together, and loads."""

    def __init__(self) -> None:
        self.by_layer: dict[str, dict[int, Curve]] = {kind: {} for kind in KINDS}
        self.over_layers: dict[str, tuple[Curve, Curve, Curve]] = {}
        """Least, mean and most of all layers, by kind."""
        self.loads = Loads()
        self.closest: dict[int, tuple[int, int, float]] = {}
        """The most similar pair of experts of each layer and its cosine, as last seen."""

    def add(self, step: float, layers: Any) -> None:
        """Take what a step tells of its layers."""
        if not isinstance(layers, Mapping):
            return
        loads: dict[int, list[float]] = {}
        seen: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for name, told in layers.items():
            if not (str(name).isdecimal() and isinstance(told, Mapping)):
                continue
            layer, load = int(name), _load(told.get("load"))
            if load:
                loads[layer] = load
            self._close(layer, told.get("closest"))
            self._values(step, layer, dict(told) | {"overload": _overload(load)}, seen)
        if loads:
            self.loads.add(step, loads)
        for kind, values in seen.items():
            if values:
                least, mean, most = self.over_layers.setdefault(kind, (Curve(), Curve(), Curve()))
                least.add(step, min(values))
                mean.add(step, sum(values) / len(values))
                most.add(step, max(values))

    def _values(
        self, step: float, layer: int, told: Mapping[str, Any], seen: dict[str, list[float]]
    ) -> None:
        for kind in KINDS:
            value = number(told.get(kind))
            if value is not None:
                self.by_layer[kind].setdefault(layer, Curve(COLUMNS)).add(step, value)
                seen[kind].append(value)

    def _close(self, layer: int, pair: Any) -> None:
        if isinstance(pair, Sequence) and not isinstance(pair, str) and len(pair) == 3:
            one, other, cosine = map(number, pair)
            if one is not None and other is not None and cosine is not None:
                self.closest[layer] = int(one), int(other), cosine


def _load(told: Any) -> list[float]:
    """Return the pairs of each expert; nothing where one of them is no number."""
    if not isinstance(told, list):
        return []
    found = [number(each) for each in told]
    return [each for each in found if each is not None] if None not in found else []


def _overload(load: Sequence[float]) -> float | None:
    total = sum(load)
    return max(load) * len(load) / total if total > 0 else None


def _join(sums: dict[int, list[float]], loads: Mapping[int, Sequence[float]]) -> None:
    """Add loads; a layer whose number of experts has changed begins anew."""
    for layer, load in loads.items():
        before = sums.get(layer)
        if before is None or len(before) != len(load):
            sums[layer] = list(load)
        else:
            sums[layer] = [one + other for one, other in zip(before, load, strict=True)]


def _joined(
    one: tuple[float, float, dict[int, list[float]]],
    other: tuple[float, float, dict[int, list[float]]],
) -> tuple[float, float, dict[int, list[float]]]:
    _join(one[2], other[2])
    return one[0], other[1], one[2]


def _shares(load: Sequence[float]) -> list[float]:
    total = sum(load)
    return [each / total for each in load] if total > 0 else []
