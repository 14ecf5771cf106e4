"""Experts of 58 layers over 32 ranks: how even, and how long it takes to say.

Against the plain greedy way, restated here: the next copy goes to the expert with the most load per
copy; then, the heaviest first, each goes to the least loaded rank with room. Without spare slots
(256) and with 32 of them (288). Max / mean of the load of the ranks, averaged over the layers.
Milliseconds of one core, medians. The drift is of one layer's popularity over time: experts are
placed by one window and judged by a later one.

Bars: no layer less even than the plain way, 50 ms.
"""

import time
from collections.abc import Callable, Sequence
from statistics import mean, median
from typing import Any

import numpy as np

from benchmarks.results import finish, options, parse
from moe.planning.experts.expert_layout import ExpertLayout, moves
from moe.planning.experts.packing import Floats
from moe.planning.experts.rebalance import arrange, improve, replicate

LAYERS, EXPERTS, RANKS = 58, 256, 32
SECONDS = 0.05
ROUNDING = 1e-9
TOKENS = 8 * 65_536

Packs = list[list[int]]


def plain(load: Sequence[float], slots: Sequence[int]) -> Packs:
    """Return the experts of each rank, packed the plain way, copies included."""
    copies = [1] * len(load)
    names = list(range(len(load)))
    while len(names) < sum(slots):
        hottest = max(range(len(load)), key=lambda expert: load[expert] / copies[expert])
        copies[hottest] += 1
        names.append(hottest)
    packs: Packs = [[] for _ in slots]
    weights = [0.0] * len(slots)
    for expert in sorted(names, key=lambda expert: -load[expert] / copies[expert]):
        open_ranks = [rank for rank, pack in enumerate(packs) if len(pack) < slots[rank]]
        rank = min(open_ranks, key=weights.__getitem__)
        packs[rank].append(expert)
        weights[rank] += load[expert] / copies[expert]
    return packs


def heaviest(load: Sequence[float], packs: Sequence[Sequence[int]]) -> float:
    """Return the load of the fullest rank; copies share their expert's load evenly."""
    copies = [sum(list(pack).count(expert) for pack in packs) for expert in range(len(load))]
    return max(sum(load[expert] / copies[expert] for expert in pack) for pack in packs)


def traces(random: np.random.Generator, layers: int = LAYERS) -> dict[str, Floats]:
    """Return loads [layers, experts] by name."""
    even = random.random((layers, EXPERTS))
    zipf = np.tile(1 / np.arange(1, EXPERTS + 1), (layers, 1))
    hot = even.copy()
    hot[:, 3] = EXPERTS / 4
    return {
        "uniform": even,
        "uniform, cubed": random.random((layers, EXPERTS)) ** 3,
        "zipf": random.permuted(zipf, axis=1),
        "one hot expert": hot,
        "drift": drift(random, 1, layers=layers)[0],
    }


def drift(
    random: np.random.Generator, windows: int, change: float = 0.3, layers: int = LAYERS
) -> list[Floats]:
    """Return token counts of following windows; log popularity walks, tokens are drawn by it."""
    log = random.normal(size=(layers, EXPERTS)) * 0.7
    found = []
    for _ in range(windows):
        popularity = np.exp(log) / np.exp(log).sum(axis=1, keepdims=True)
        found.append(random.multinomial(TOKENS, popularity).astype(np.float64))
        log = 0.95 * log + change * random.normal(size=log.shape)
    return found


def main() -> None:
    """Measure and print."""
    parser = options(__doc__ or "", material=False)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--layers", type=int, default=LAYERS)
    arguments = parse(parser, turns=1, layers=2)
    random = np.random.default_rng(arguments.seed)
    rows, missed = [], []
    for name, loads in traces(random, arguments.layers).items():
        for way, slots in ((arrange, EXPERTS // RANKS), (replicate, EXPERTS // RANKS + 1)):
            row, found = _raced(name, loads, [slots] * RANKS, way, arguments.turns)
            rows.append(row)
            missed += found
    for slots in (EXPERTS // RANKS, EXPERTS // RANKS + 1):
        rows += _drifted(random, [slots] * RANKS, arguments.layers)
    title = f"{arguments.layers} layers x {EXPERTS} experts on {RANKS} ranks"
    finish(arguments, title, rows, missed)


def _raced(
    name: str, loads: Floats, slots: list[int], way: Callable[..., ExpertLayout], turns: int
) -> tuple[dict[str, Any], list[str]]:
    """Return the row of one trace and the bars it misses."""
    table = loads.tolist()
    started = time.process_time()
    packed = [plain(load, slots) for load in table]
    plain_seconds = time.process_time() - started
    seconds = []
    for _ in range(turns):
        started = time.process_time()
        placement = way(loads, slots)
        seconds.append(time.process_time() - started)
    theirs = _ratios(loads, packed, len(slots))
    ours = _ratios(loads, placement.experts, len(slots))
    what = f"{name}, {sum(slots)} slots"
    cells = {
        "in order": mean(_ratios(loads, [_in_order(slots)] * len(loads), len(slots))),
        "plain": mean(theirs),
        "raymoe": mean(ours),
        "plain ms": plain_seconds * 1e3,
        "raymoe ms": median(seconds) * 1e3,
    }
    worst = max(mine / other for mine, other in zip(ours, theirs, strict=True))
    missed = []
    if worst > 1 + ROUNDING:
        missed.append(f"{what}: a layer is {worst:.4f} x as uneven as the plain way leaves it")
    if median(seconds) > SECONDS:
        missed.append(f"{what}: {median(seconds) * 1e3:.0f} ms, bar {SECONDS * 1e3:.0f}")
    return _row(name, slots, **cells), missed


def _drifted(random: np.random.Generator, slots: list[int], layers: int) -> list[dict[str, Any]]:
    """Return the rows of a placement that has grown old: kept, improved, made anew."""
    before, after = drift(random, 2, layers=layers)
    old = replicate(before, slots)
    ways = {
        "kept": old,
        "improved": improve(old, after),
        "placed anew": replicate(after, slots),
    }
    return [
        _row(
            f"drift, {name}",
            slots,
            raymoe=mean(_ratios(after, new.experts, len(slots))),
            moves=len(moves(old, new)),
        )
        for name, new in ways.items()
    ]


def _ratios(loads: Floats, packed: Sequence[Sequence[Sequence[int]]], ranks: int) -> list[float]:
    return [
        heaviest(load, packs) * ranks / sum(load)
        for load, packs in zip(loads.tolist(), packed, strict=True)
    ]


def _in_order(slots: list[int]) -> Packs:
    """Return experts in order of their numbers, the first again in spare slots."""
    order = iter([*range(EXPERTS), *range(sum(slots) - EXPERTS)])
    return [[next(order) for _ in range(count)] for count in slots]


def _row(what: str, slots: list[int], **cells: float) -> dict[str, Any]:
    headings = ("in order", "plain", "raymoe", "plain ms", "raymoe ms", "moves")
    return {
        "what": what,
        "slots": sum(slots),
        **{heading: cells.get(heading, "") for heading in headings},
    }


if __name__ == "__main__":
    main()
