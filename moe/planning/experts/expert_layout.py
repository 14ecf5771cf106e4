"""Which rank of a gang holds which experts of each layer: a value, its balance, moves, and file.

    [[layers]]
    layer = 3
    ranks = [[0, 2, 5], [1, 3, 4]]      # experts of rank 0, of rank 1

Every layer gives a rank the same number of slots. The copies of an expert share its load
evenly; an expert listed twice on one rank takes two parts there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moe.errors import PlanError
from moe.planning import tables
from moe.planning.experts.load import checked_load, checked_speeds
from moe.planning.experts.packing import Floats

Experts = tuple[tuple[int, ...], ...]
"""The experts of each rank of one layer, ascending."""


@dataclass(frozen=True, slots=True)
class ExpertMove:
    """Rank ``target`` of the gang comes to hold an expert and can copy it from rank ``source``."""

    layer: int
    expert: int
    source: int
    target: int


@dataclass(frozen=True, slots=True)
class ExpertLayout:
    """``experts[i][r]`` are the experts of layer ``layers[i]`` that rank ``r`` holds."""

    layers: tuple[int, ...]
    experts: tuple[Experts, ...]

    def __post_init__(self) -> None:
        if not self.layers or len(self.layers) != len(self.experts):
            raise PlanError(
                f"the expert layout names {len(self.layers)} layers and lists the experts of "
                f"{len(self.experts)}; list each layer once, at least one"
            )
        if list(self.layers) != sorted(set(self.layers)):
            raise PlanError(
                f"the expert layout has layers {self.layers}; list them once, ascending"
            )
        count = self.expert_count
        for layer, ranks in zip(self.layers, self.experts, strict=True):
            self._check_layer(layer, ranks, count)

    @property
    def slots(self) -> tuple[int, ...]:
        """Experts that each rank holds of every layer, repeats counted."""
        return tuple(len(held) for held in self.experts[0])

    @property
    def expert_count(self) -> int:
        """Experts of a layer."""
        return 1 + max(chain.from_iterable(self.experts[0]), default=-1)

    def of(self, layer: int) -> Experts:
        """Return the experts of each rank of one layer."""
        if layer not in self.layers:
            raise PlanError(
                f"asked for layer {layer} of an expert layout of layers {self.layers}; "
                "list the experts of that layer too"
            )
        return self.experts[self.layers.index(layer)]

    def copies(self) -> NDArray[np.int64]:
        """Return how often each rank holds each expert, [layers, ranks, experts]."""
        found = np.zeros((len(self.layers), len(self.slots), self.expert_count), dtype=np.int64)
        for layer, ranks in enumerate(self.experts):
            for rank, held in enumerate(ranks):
                np.add.at(found[layer, rank], list(held), 1)
        return found

    def rank_loads(self, load: ArrayLike) -> Floats:
        """Return the load of each rank, [layers, ranks], for loads [layers, experts]."""
        loads = checked_load(load)
        expected = (len(self.layers), self.expert_count)
        if loads.shape != expected:
            raise PlanError(
                f"the expert layout has {expected[0]} layers and {expected[1]} experts, the load "
                f"{loads.shape[0]} and {loads.shape[1]}; measure the load of the same layers"
            )
        copies = self.copies()
        sums: Floats = np.einsum("lre,le->lr", copies, loads / copies.sum(axis=1))
        return sums

    def imbalance(
        self, load: ArrayLike, speeds: Sequence[float] | None = None
    ) -> tuple[float, ...]:
        """Return by layer how much slower the slowest rank is than a perfect spread: max / mean."""
        loads = self.rank_loads(load)
        pace = checked_speeds(speeds, len(self.slots))
        perfect = loads.sum(axis=1) / pace.sum()
        slowest = (loads / pace).max(axis=1)
        ratios = np.divide(slowest, perfect, out=np.ones_like(perfect), where=perfect > 0)
        return tuple(ratios.tolist())

    def _check_layer(self, layer: int, ranks: Experts, count: int) -> None:
        slots = tuple(len(held) for held in ranks)
        if slots != self.slots:
            raise PlanError(
                f"layer {layer} gives the ranks {slots} experts, layer {self.layers[0]} "
                f"{self.slots}; a rank holds as many experts of every layer"
            )
        if any(list(held) != sorted(held) for held in ranks):
            raise PlanError(f"layer {layer}: the experts of a rank are not ascending; sort them")
        found = set(chain.from_iterable(ranks))
        if not found:
            raise PlanError(f"layer {layer} has no rank with an expert; list at least one")
        if min(found) or len(found) != count or max(found) != count - 1:
            raise PlanError(
                f"layer {layer} has {len(found)} experts from {min(found)} to {max(found)}, the "
                f"model has 0 to {count - 1}; give every expert of every layer a holder"
            )


def moves(old: ExpertLayout, new: ExpertLayout) -> tuple[ExpertMove, ...]:
    """Return what the ranks must copy from each other to go from one layout to the other.

    The source is a rank that gives the expert up where there is one, else the first that holds it.
    A copy that is only dropped is no move.
    """
    sizes = {(each.layers, len(each.slots), each.expert_count) for each in (old, new)}
    if len(sizes) > 1:
        raise PlanError(
            "the two expert layouts differ in their layers, ranks or experts; "
            "compare layouts of one gang and one model"
        )
    return tuple(
        move
        for layer, before, after in zip(old.layers, old.experts, new.experts, strict=True)
        for move in _layer_moves(layer, before, after)
    )


def save_layout(layout: ExpertLayout, path: Path) -> None:
    """Write the expert layout as TOML."""
    tables.write(to_dict(layout), path, "expert layout")


def load_layout(path: Path) -> ExpertLayout:
    """Read an expert layout from TOML; PlanError says what is wrong with it."""
    return tables.read(path, "expert layout", from_dict, "write one [[layers]] table per layer")


def to_dict(layout: ExpertLayout) -> dict[str, Any]:
    """Return the layout as plain tables, the form it has in TOML and JSON."""
    rows = zip(layout.layers, layout.experts, strict=True)
    return {
        "layers": [
            {"layer": layer, "ranks": [list(held) for held in ranks]} for layer, ranks in rows
        ]
    }


def from_dict(table: Mapping[str, Any]) -> ExpertLayout:
    """Return the layout a table describes; PlanError names a key that is unknown or missing."""
    tables.check_keys("expert layout", table, ("layers",))
    rows = tables.entries("expert layout", "layers", table["layers"])
    for number, row in enumerate(rows):
        tables.check_keys(f"layers entry {number}", row, ("layer", "ranks"))
    return ExpertLayout(
        layers=tuple(tables.whole("layers", "layer", row["layer"]) for row in rows),
        experts=tuple(_ranks(f"layer {row['layer']}", row["ranks"]) for row in rows),
    )


def _ranks(label: str, value: Any) -> Experts:
    if not isinstance(value, list | tuple):
        raise PlanError(f"{label}: ranks is {value!r}; expected a list of experts for each rank")
    return tuple(tables.wholes(label, "ranks", held) for held in value)


def _layer_moves(layer: int, before: Experts, after: Experts) -> list[ExpertMove]:
    ranks = range(len(before))
    leaving = {
        expert: [rank for rank in ranks if expert in before[rank] and expert not in after[rank]]
        for expert in chain.from_iterable(before)
    }
    found = []
    for target in ranks:
        for expert in sorted(set(after[target]) - set(before[target])):
            holders = [rank for rank in ranks if expert in before[rank]]
            source = leaving[expert].pop(0) if leaving[expert] else holders[0]
            found.append(ExpertMove(layer, expert, source, target))
    return found
