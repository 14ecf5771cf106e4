"""The load of experts, in tokens by layer and expert: read from a journal, and checked."""

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from moe.errors import PlanError
from moe.planning.experts.packing import Floats

SLOWEST = 1e-6
"""The least speed of a rank, as a part of that of the fastest of its gang."""

MOST = 1e300
"""The largest load, so that no sum of loads is infinite."""


def load_from_journal(path: Path, last_steps: int) -> tuple[tuple[int, ...], Floats]:
    """Return the layers that have experts and their load [layers, experts] over the last steps.

    The journal is the one a run writes, one JSON object a line; a torn last line does not count.
    Of a run that has fewer steps all are summed.
    """
    if last_steps < 1:
        raise PlanError(f"asked for the load of {last_steps} steps; ask for at least one")
    steps = list(islice(_steps_from_the_end(path), last_steps))
    if not steps:
        raise PlanError(
            f"no step in {path} has a load of experts; give the journal of a run of a model that "
            "has experts, after its first step"
        )
    layers = tuple(sorted(steps[0]))
    sizes = {len(load) for step in steps for load in step.values()}
    if len(sizes) > 1 or any(tuple(sorted(step)) != layers for step in steps):
        raise PlanError(
            f"the last {len(steps)} steps of {path} differ in their layers or experts; "
            "ask for the steps of one model only"
        )
    table = [[step[layer] for layer in layers] for step in steps]
    return layers, checked_load(np.sum([checked_load(rows) for rows in table], axis=0))


def _steps_from_the_end(path: Path) -> Iterator[dict[int, list[Any]]]:
    """Yield the load by layer of each step that has one, the last step first."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PlanError(
            f"cannot read the journal {path}: {error.strerror}; a run writes one beside its "
            "checkpoints"
        ) from error
    for line in reversed(data[: data.rfind(b"\n") + 1].splitlines()):
        try:
            record = json.loads(line)
            layers = record.get("layers", {})
            load = {int(number): list(layer["load"]) for number, layer in layers.items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise PlanError(
                f"{path} is not the journal of a run, one JSON object a line with the load of "
                f"every layer: {error!r}"
            ) from error
        if load:
            yield load


def checked_load(load: ArrayLike) -> Floats:
    """Return loads [layers, experts] as numbers; PlanError unless finite and not negative."""
    try:
        loads = np.asarray(load, dtype=np.float64)
    except (TypeError, ValueError):
        raise PlanError("the load is not a table of numbers; give a row a layer") from None
    if loads.ndim != 2 or not loads.size:
        raise PlanError(
            f"the load has shape {loads.shape}; give [layers, experts], at least one of each"
        )
    wrong = np.argwhere(~(np.isfinite(loads) & (loads >= 0)))
    if len(wrong):
        row, expert = wrong[0].tolist()
        raise PlanError(
            f"row {row} of the load: expert {expert} has {loads[row, expert]}; "
            "a load is a finite number of tokens, 0 or more"
        )
    if loads.max() > MOST:
        raise PlanError(f"a load is {loads.max():g}, too large to add up; scale the loads down")
    return loads


def checked_speeds(speeds: Sequence[float] | None, ranks: int) -> Floats:
    """Return the speed of each rank as a part of the fastest; all are equal if none are given."""
    if speeds is None:
        return np.ones(ranks)
    found = np.asarray(speeds, dtype=np.float64)
    if found.shape != (ranks,):
        raise PlanError(f"{len(speeds)} speeds for {ranks} ranks; give one speed per rank")
    for rank, speed in enumerate(found.tolist()):
        if not 0 < speed < float("inf"):
            raise PlanError(f"rank {rank} has speed {speed}; give a finite number above 0")
    relative: Floats = found / found.max()
    if relative.min() < SLOWEST:
        raise PlanError(
            f"the speeds of the ranks go from {found.min()} to {found.max()}; a rank that much "
            "slower than another is no help, leave it out of the gang"
        )
    return relative
