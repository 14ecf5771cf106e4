"""What one rank finds out about its device, at the same time as all other ranks.

Memory bandwidth, caches and clock are shared by the ranks of a machine, so every round begins for
all at once, behind a barrier, and the others do the same work meanwhile. A warm-up, which finds its
memory pages fresh, is not among the rounds.

    products    of large matrices, as the model multiplies: forward, gradients of inputs, of weights
    memory      a gradient made and added: read, write to fresh pages, then read, read, write

A rank of one thread is timed by the processor time of that thread, which is what it would take on
a machine left alone; of several, and on a GPU, by the clock on the wall. On a GPU each half of a
round waits for the device; no GPU was at hand to run that on.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import grad

from actors.device import Device, seconds_of
from actors.profiling.bench import CHAIN_BYTES, Bench, OptimizerBench, PartBench, parts_of
from moe.config.model import ModelConfig
from moe.nn.linear import linear
from moe.nn.weights.dense import Dense
from moe.planning.counts.workload import FLOAT32, NUMERICS
from moe.planning.devices.rates import Rates

FEWEST_ROUNDS = 3
_MOST_ROUNDS = 50
_SIDES = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the matrices of a product, by type of device."""
_FLOATS = 2**24
_PASSES = 5
_RATE_ROUNDS = 9

_QUICK = 2
"""A quick measuring divides the sides of matrices by it, rounds and chains by its square."""


Work = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Measuring:
    """What to measure, with so many ranks at once, each of so many threads.

    ``seconds`` is about how long each part runs at each size once it is warm. ``precision`` is that
    of products. ``quick`` takes smaller matrices, shorter chains and fewer rounds. ``on_cpu``
    leaves the GPUs alone that the process sees.
    """

    config: ModelConfig
    sequence_length: int
    micro_batches: tuple[int, ...]
    ranks: int
    threads: int
    seconds: float
    precision: str = FLOAT32.name
    quick: bool = False
    on_cpu: bool = False

    @property
    def half(self) -> bool:
        """Whether products are of 16-bit numbers."""
        return NUMERICS[self.precision].sixteen_bit

    @property
    def chain_bytes(self) -> int:
        """Weights of a chain of blocks."""
        return CHAIN_BYTES // _QUICK**2 if self.quick else CHAIN_BYTES


@dataclass(frozen=True, slots=True)
class Timed:
    """Seconds of each round of a part, on micro-batches of so many tokens.

    Of one block where they ran in a chain. The optimiser has ``parameters`` in place of tokens.
    """

    part: str
    tokens: int
    forward: tuple[float, ...]
    backward: tuple[float, ...]
    parameters: int = 0


class Clock:
    """Times work in this process."""

    def __init__(self, device: Device, threads: int) -> None:
        self.device = device
        self._now = device.clock(threads)
        self._wall = self._processor = 0.0

    @property
    def share(self) -> float:
        """The part of the timed rounds that this process had a core; less than 1 on a busy machine.

        With several threads it may be above 1. A GPU's is 1.
        """
        return self._processor / self._wall if self.device.shared and self._wall else 1.0

    def seconds(self, work: Work) -> float:
        """Return the seconds of computing, until the device is done with it."""
        self.device.synchronise()
        started = self._now()
        work()
        self.device.synchronise()
        return self._now() - started

    def waited(self, work: Work) -> float:
        """Return the seconds of work that waits for other ranks."""
        started = seconds_of(self.device)
        work()
        return seconds_of(self.device) - started

    def rounds(
        self, bench: Bench, seconds: float, fewest: int = FEWEST_ROUNDS
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the halves of as many rounds as fit, once warm; as many on every rank."""
        self._round(bench)
        slowest = torch.tensor(sum(self._round(bench)), device=self.device.torch_device)
        dist.all_reduce(slowest, dist.ReduceOp.MAX)
        count = min(max(int(seconds / slowest.item()), fewest), _MOST_ROUNDS)
        wall, processor = time.perf_counter(), time.process_time()
        rounds = [self._round(bench) for _ in range(count)]
        self._wall += time.perf_counter() - wall
        self._processor += time.process_time() - processor
        forward, backward = zip(*rounds, strict=True)
        return (
            tuple(seconds / bench.count for seconds in forward),
            tuple(seconds / bench.count for seconds in backward),
        )

    def _round(self, bench: Bench) -> tuple[float, float]:
        bench.prepare()
        dist.barrier()
        return self.seconds(bench.forward), self.seconds(bench.backward)


def together(timer: Callable[[Work], float], work: Work, times: int) -> list[float]:
    """Return the seconds of work that all ranks begin at once, so many times after a warm-up."""
    seconds = []
    for _ in range(times + 1):
        dist.barrier()
        seconds.append(timer(work))
    return seconds[1:]


def measure_rates(clock: Clock, asked: Measuring) -> Rates:
    """Return what the device sustains in products of each role and in passes over memory."""
    device, shrink = clock.device.torch_device, _QUICK if asked.quick else 1
    rounds = max(_RATE_ROUNDS // shrink**2, 1)
    side = _SIDES[device.type] // shrink
    dtype = torch.bfloat16 if asked.half else torch.float32

    def matrix(grad: bool) -> Tensor:
        return torch.randn(side, side, device=device).to(dtype).requires_grad_(grad)

    def product_rate(work: Work) -> float:
        return 2 * side**3 / median(together(clock.seconds, work, rounds))

    x, weight, gradient = (matrix(grad=False) for _ in range(3))
    of_inputs = linear(entering := matrix(grad=True), Dense(weight))
    of_weights = linear(x, Dense(trained := matrix(grad=True)))

    def forward() -> Tensor:
        with torch.no_grad():
            return linear(x, Dense(weight))

    total, source = (torch.ones(_FLOATS, device=device) for _ in range(2))
    passes = together(clock.seconds, lambda: total.add_(source * 0.5), rounds)
    return Rates(
        product_rate(forward),
        _PASSES * total.nbytes / median(passes),
        product_rate(lambda: grad(of_inputs, entering, gradient, retain_graph=True)),
        product_rate(lambda: grad(of_weights, trained, gradient, retain_graph=True)),
    )


def measure_part(part: str, asked: Measuring, clock: Clock) -> Iterator[Timed]:
    """Yield a part at every size; after the last kind of block, the optimiser of its weights."""
    device, fewest = clock.device.torch_device, 1 if asked.quick else FEWEST_ROUNDS
    bench = PartBench(asked.config, part, device, asked.half, asked.chain_bytes)
    for micro_batch in sorted(set(asked.micro_batches)):
        bench.use(micro_batch, asked.sequence_length)
        halves = clock.rounds(bench, asked.seconds, fewest)
        yield Timed(part, micro_batch * asked.sequence_length, *halves)
    if part == parts_of(asked.config)[-2]:
        optimizer = OptimizerBench(bench)
        halves = clock.rounds(optimizer, asked.seconds, fewest)
        yield Timed("optimizer", 1, *halves, optimizer.parameters)
