"""The memory picture: for each rank a bar, divided by purpose, against the memory of its device."""

from moe.planning.counts.memory import RankBytes
from moe.planning.devices.inventory import Inventory
from moe.planning.plan.plan import Plan
from pipelines.screen.page.phrases import TIGHT, count, fullness
from pipelines.screen.page.svg import (
    PAGE_WIDTH,
    Scale,
    element,
    figure,
    fitted,
    hint,
    legend,
    line,
    rect,
    words,
)
from pipelines.screen.words import gigabytes

PARTS = (
    "weights",
    "gradients",
    "optimizer",
    "activations",
    "working",
    "buffers",
    "snapshot",
    "copies",
    "process",
)
"""Purposes of bytes, in the order of the bars."""

_MEANINGS = {"optimizer": "optimiser states", "copies": "copies of ranks", "process": "the process"}
_TOP = 52.0
_ROW, _TALL_ROW = 19.0, 30.0
_GAP = 6.0
_FEW = 16
_BETWEEN = 40.0
_NAMES = 160.0
_TOTALS = 170.0


def limits(plan: Plan, inventory: Inventory) -> list[int]:
    """Return the limit of each rank in bytes: the smallest device among its replicas."""
    return [
        min(inventory.device(name).memory_bytes for name in plan.rank(seat).devices)
        for seat in plan.seats.of_replica(0)
    ]


def memory(plan: Plan, inventory: Inventory, needed: tuple[RankBytes, ...]) -> str:
    """Return the picture; with many ranks, the stages are in two columns."""
    most = limits(plan, inventory)
    stages = len(plan.stages)
    columns = 2 if plan.ranks > _FEW and stages > 1 else 1
    here = -(-stages // columns)
    width = (PAGE_WIDTH - (columns - 1) * _BETWEEN) / columns
    row = _ROW if plan.ranks > _FEW else _TALL_ROW
    largest = float(max(*most, *(each.total for each in needed)))
    parts = legend(0, 4, _meanings(needed))
    bottom = _TOP + here * (plan.gang_size * row + _GAP)
    for column in range(columns):
        left = column * (width + _BETWEEN)
        scale = Scale(largest, left + _NAMES, left + width - _TOTALS)
        parts += _axis(scale, bottom)
        parts.append(words(left, _TOP - 10, "rank", class_="heading"))
        parts.append(words(left + 28, _TOP - 10, "device", class_="heading"))
        for stage in range(column * here, min(stages, (column + 1) * here)):
            for seat in plan.seats.of_stage(stage):
                rank, above = plan.seats.rank(seat), stage - column * here
                top = _TOP + above * (plan.gang_size * row + _GAP) + seat.member * row
                name = plan.rank(seat).device
                parts.append(_bar(rank, name, scale, (left, top, row), needed[rank], most[rank]))
    label = f"bytes of {count(plan.ranks, 'rank')} against the memory of their devices"
    return figure("memory", bottom + 26, label, parts)


def _meanings(needed: tuple[RankBytes, ...]) -> list[tuple[str, str]]:
    """Return the legend: the parts that occur, and the mark of the limit."""
    used = [part for part in PARTS if any(getattr(each, part) for each in needed)]
    listed = [(f"part {part}", _MEANINGS.get(part, part)) for part in used]
    return [*listed, ("limit", "memory of the device")]


def _axis(scale: Scale, bottom: float) -> list[str]:
    """Return vertical lines at round numbers of GB."""
    parts = []
    for tick in Scale(scale.most / 1e9, 0, 1).ticks(8):
        x = scale.at(tick * 1e9)
        parts.append(line(x, _TOP - 4, x, bottom, class_="grid"))
        parts.append(words(x, bottom + 14, f"{tick:g}", class_="middle quiet"))
    parts.append(words(scale.right + 12, bottom + 14, "GB", class_="quiet"))
    return parts


def _bar(
    rank: int,
    device: str,
    scale: Scale,
    place: tuple[float, float, float],
    needed: RankBytes,
    limit: int,
) -> str:
    """Return one rank's bar with its name, its limit and its sum."""
    left, top, row = place
    height = row - 5
    baseline = top + height / 2 + 4
    parts = [
        words(left, baseline, f"{rank}", class_="strong"),
        words(left + 28, baseline, fitted(device, _NAMES - 36)),
    ]
    start = 0
    for part in PARTS:
        size = getattr(needed, part)
        if not size:
            continue
        x, stop = scale.at(start), scale.at(start + size)
        hover = hint(f"rank {rank}, {device}\n{_MEANINGS.get(part, part)}: {gigabytes(size)} GB")
        kind = f"part {part}"
        parts.append(rect(x, top, stop - x, height, hover, class_=kind, data_part=part))
        start += size
    edge = scale.at(limit)
    hover = hint(f"{device} has {gigabytes(limit)} GB")
    parts.append(rect(edge - 1.5, top - 2.5, 3, row, hover, class_="limit", data_limit=limit))
    total = f"{gigabytes(start)} of {gigabytes(limit)} GB, {fullness(start, limit)}"
    parts.append(words(scale.right + 12, baseline, total, class_=_state(start, limit)))
    return element("g", *parts, class_="bar", data_rank=rank, data_bytes=start)


def _state(used: int, limit: int) -> str:
    """Return the class of a total: too large, nearly full, or neither."""
    if used > limit:
        return "over"
    return "tight" if used > TIGHT * limit else "total"
