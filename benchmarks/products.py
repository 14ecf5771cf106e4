"""The libraries of float32 products by role and rows: what ``moe.config.products`` is made from.

For one matrix of a layer in either direction: GFLOP/s of each library in the product of the layer
(forward), the gradient of its input and that of its weight. Products go round over so many weights
that none stays in the cache, as in a layer of experts. ``new`` is the first product of its rows:
oneDNN makes a program for every shape that it has not seen, and the rows of experts differ in every
micro-batch. ``again`` is a product of rows that were seen before.

With one thread, the default, processor time is counted, so that other work on the machine hardly
shows; with more, it is time on the wall. ``chosen`` is what this process uses: the measured entry
of the processor, or oneDNN where it has none. For another kind of processor, add an entry that
follows the fastest columns.

Bar: from 64 rows on, the chosen library is at most 15 % slower than the best on rows seen before.
"""

import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.processors import described
from benchmarks.results import finish, options, parse
from moe.config.products import LIBRARIES, ROLES, Library, Role
from moe.nn import openblas
from moe.nn.processor import processor
from moe.nn.product import MULTIPLY, in_use

JUDGED_ROWS = 64
OF_BEST = 0.85
SPREAD = 8
"""Products that are new have up to so many rows more."""

Speeds = dict[Library, tuple[float, float]]
"""GFLOP/s of a product that is new, and of one that was seen."""


@dataclass(frozen=True, slots=True)
class Operands:
    """Rows, weights that take turns, and the gradient of the result."""

    x_MK: Tensor
    weights_NK: tuple[Tensor, ...]
    y_grad_MN: Tensor

    @classmethod
    def of(cls, rows: int, outputs: int, inputs: int, weights: int) -> "Operands":
        """Return random ones."""
        return cls(
            torch.randn(rows, inputs),
            tuple(torch.randn(outputs, inputs) for _ in range(weights)),
            torch.randn(rows, outputs),
        )

    def pairs(self, role: Role) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield what a role multiplies, for each weight."""
        for weight_NK in self.weights_NK:
            if role == "forward":
                yield self.x_MK, weight_NK
            elif role == "input":
                yield self.y_grad_MN, weight_NK.t()
            else:
                yield self.y_grad_MN.t(), self.x_MK.t()


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    there = [name for name in LIBRARIES if name != "openblas" or openblas.fits(processor())]
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    sizes = ((arguments.size, arguments.hidden), (arguments.hidden, arguments.size))
    rows, missed = [], []
    for outputs, inputs in sizes:
        for count in arguments.rows:
            for role in ROLES:
                speeds = _speeds(role, (count, outputs, inputs), there, arguments, clock)
                taken = in_use().library(role, count)
                rows.append(_row(f"{role}, {inputs} to {outputs}", count, speeds, taken))
                missed += _missed(rows[-1], speeds, taken)
    finish(arguments, f"GFLOP/s of {arguments.threads} threads; {described()}", rows, missed, 3)


def _arguments() -> Namespace:
    parser = options(__doc__ or "", material=False)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--size", type=int, default=1536)
    parser.add_argument("--weights", type=int, default=16, help="that take turns")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64, 128, 512, 2048]
    )
    return parse(parser, hidden=8, size=16, weights=2, rounds=1, rows=[2, 64])


def _speeds(
    role: Role,
    shape: tuple[int, int, int],
    libraries: list[Library],
    arguments: Namespace,
    clock: Callable[[], float],
) -> Speeds:
    """Return the speeds of each library, which take turns."""
    rows, outputs, inputs = shape
    flops = 2e-9 * outputs * inputs
    new: dict[Library, list[float]] = {name: [] for name in libraries}
    seen: dict[Library, list[float]] = {name: [] for name in libraries}
    for more in range(SPREAD):
        other = Operands.of(rows + more, outputs, inputs, 1)
        for name in libraries:
            seconds = _timed(name, other, role, clock)
            new[name] += [flops * (rows + more) / each for each in seconds]
    operands = Operands.of(rows, outputs, inputs, arguments.weights)
    for _ in range(arguments.rounds):
        for name in libraries:
            seconds = _timed(name, operands, role, clock)
            seen[name] += [flops * rows / each for each in seconds]
    return {name: (median(new[name]), median(seen[name])) for name in libraries}


def _timed(
    library: Library, operands: Operands, role: Role, clock: Callable[[], float]
) -> list[float]:
    seconds = []
    for one, other in operands.pairs(role):
        started = clock()
        MULTIPLY[library](one, other, None)
        seconds.append(max(clock() - started, 1e-9))
    return seconds


def _row(what: str, rows: int, speeds: Speeds, taken: Library) -> dict[str, Any]:
    shown: dict[str, Any] = {"what": what, "rows": rows}
    for name in LIBRARIES:
        new, again = speeds.get(name, ("-", "-"))
        shown |= {f"{name} new": new, f"{name} again": again}
    return shown | {"chosen": taken}


def _missed(row: dict[str, Any], speeds: Speeds, taken: Library) -> list[str]:
    """Return the bar if the chosen library is much slower than the best."""
    if row["rows"] < JUDGED_ROWS:
        return []
    again = {name: seen for name, (_, seen) in speeds.items()}
    best = max(again, key=lambda name: again[name])
    share = again[taken] / again[best]
    if share >= OF_BEST:
        return []
    return [f"{row['what']}, {row['rows']} rows: {taken} is {share:.2f} of {best}, bar {OF_BEST}"]


if __name__ == "__main__":
    main()
