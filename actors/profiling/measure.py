"""What one rank finds out about its device, at the same time as all other ranks.

Memory bandwidth, caches and clock are shared by the ranks of a machine, so every round begins for
all at once, behind a barrier, and the others do the same work meanwhile. A warm-up, which finds its
memory pages fresh, is not among the rounds.

    products    of large float32 matrices, as the model multiplies
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

from actors.device import Device, seconds_of
from actors.profiling.bench import Bench, OptimizerBench, PartBench, parts_of
from moe.config.model import ModelConfig
from moe.nn.product import product
from moe.planning.devices.rates import Rates

FEWEST_ROUNDS = 3
_MOST_ROUNDS = 50
_SIDE = 2048
_FLOATS = 2**24
_PASSES = 5
_RATE_ROUNDS = 9


Work = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Measuring:
    """What to measure, with so many ranks at once, each of so many threads.

    ``seconds`` is about how long each part runs at each size once it is warm.
    """

    config: ModelConfig
    sequence_length: int
    micro_batches: tuple[int, ...]
    ranks: int
    threads: int
    seconds: float


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

    def rounds(self, bench: Bench, seconds: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the halves of as many rounds as fit, once warm; as many on every rank."""
        self._round(bench)
        slowest = torch.tensor(sum(self._round(bench)), device=self.device.torch_device)
        dist.all_reduce(slowest, dist.ReduceOp.MAX)
        count = min(max(int(seconds / slowest.item()), FEWEST_ROUNDS), _MOST_ROUNDS)
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


def measure_rates(clock: Clock) -> Rates:
    """Return what the device sustains in products and in passes over memory."""
    one, other = (torch.randn(_SIDE, _SIDE, device=clock.device.torch_device) for _ in range(2))
    total, source = (torch.ones(_FLOATS, device=clock.device.torch_device) for _ in range(2))
    products = together(clock.seconds, lambda: product(one, other), _RATE_ROUNDS)
    passes = together(clock.seconds, lambda: total.add_(source * 0.5), _RATE_ROUNDS)
    return Rates(
        flops_per_second=2 * _SIDE**3 / median(products),
        bytes_per_second=_PASSES * total.nbytes / median(passes),
    )


def measure_part(part: str, asked: Measuring, clock: Clock) -> Iterator[Timed]:
    """Yield a part at every size; after the last kind of block, the optimiser of its weights."""
    bench = PartBench(asked.config, part, clock.device.torch_device)
    for micro_batch in sorted(set(asked.micro_batches)):
        bench.use(micro_batch, asked.sequence_length)
        halves = clock.rounds(bench, asked.seconds)
        yield Timed(part, micro_batch * asked.sequence_length, *halves)
    if part == parts_of(asked.config)[-2]:
        optimizer = OptimizerBench(bench)
        halves = clock.rounds(optimizer, asked.seconds)
        yield Timed("optimizer", 1, *halves, optimizer.parameters)
