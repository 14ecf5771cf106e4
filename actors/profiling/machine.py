"""Plain processes that measure one machine together: as many as the actors it is to hold.

Actors talk over the same process groups as these (``actors.epochs.groups``), so nothing is lost
without Ray, and it starts in seconds.
"""

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

import psutil
import torch

from actors.device import CpuDevice, Device, gpu_count, local_device
from actors.epochs.environment import prepare
from actors.epochs.groups import Groups, open_store
from actors.epochs.leaving import leave_groups
from actors.epochs.membership import Membership
from actors.profiling.bench import alone, parameters, parts_of
from actors.profiling.measure import Clock, Measuring, Timed, measure_part, measure_rates
from actors.profiling.messages import Wire, measure_wire
from moe.errors import ConfigError, RankLost, RaymoeError
from moe.planning.counts.fixed import PROCESS_BYTES
from moe.planning.devices.rates import Rates
from moe.planning.plan.seats import Seat, Seats
from moe.sizes import unlike_texts

Progress = Callable[[int, int], None]

_HOST = "127.0.0.1"
_PATIENCE = 600.0
_STATE_BYTES = 16


@dataclass(frozen=True, slots=True)
class Found:
    """What one rank measured; ``share`` is the part of the time that it had a core.

    ``device`` is "cpu" or the name of a GPU.
    """

    device: str
    rates: Rates
    parts: tuple[Timed, ...]
    wire: Wire | None
    share: float


def measure(asked: Measuring, progress: Progress = lambda done, total: None) -> tuple[Found, ...]:
    """Start the ranks, let all of them measure at once, and return what each found.

    ``progress`` is told how many parts are done, and of how many.
    """
    _check(asked)
    context = multiprocessing.get_context("spawn")
    store = open_store(_HOST, _PATIENCE)
    pipes: list[Connection] = []
    processes: list[SpawnProcess] = []
    try:
        for rank in range(asked.ranks):
            ours, theirs = context.Pipe(duplex=False)
            arguments = (asked, rank, store.port, theirs)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        return _answers(pipes, processes, progress)
    finally:
        for process in processes:
            process.terminate()
            process.join()


def memory_bytes(asked: Measuring) -> int:
    """Return what one rank needs at its fullest part: weight, gradient, moments; the process."""
    most = max(parameters(*alone(asked.config, part)) for part in parts_of(asked.config))
    return PROCESS_BYTES + _STATE_BYTES * most


def device_of(asked: Measuring, rank: int) -> Device:
    """Return what a rank measures."""
    return CpuDevice() if asked.on_cpu else local_device(rank)


def _check(asked: Measuring) -> None:
    """Raise ConfigError where something cannot be measured."""
    numbers = {
        "ranks": asked.ranks,
        "threads": asked.threads,
        "sequence-length": asked.sequence_length,
        "micro-batch": min(asked.micro_batches, default=0),
    }
    for name, value in numbers.items():
        if value < 1:
            raise ConfigError(f"--{name} is {value}; give whole numbers above 0")
    if not 0 < asked.seconds < _PATIENCE:
        raise ConfigError(f"--seconds is {asked.seconds:g}; give a number in (0, {_PATIENCE:g})")
    gpus = 0 if asked.on_cpu else gpu_count()
    if gpus:
        if asked.ranks > gpus:
            raise ConfigError(f"--ranks is {asked.ranks} but there are {gpus} GPUs; ask for fewer")
        return
    needed, free = asked.ranks * memory_bytes(asked), psutil.virtual_memory().available
    if needed > free:
        wanted, found = unlike_texts(needed, free)
        raise ConfigError(
            f"{asked.ranks} ranks with a layer of each kind need {wanted} of memory, {found} is "
            "free; lower --ranks, or measure a smaller model"
        )


def _answers(
    pipes: list[Connection], processes: list[SpawnProcess], progress: Progress
) -> tuple[Found, ...]:
    """Return what each rank found; the first of them also tells how far it is."""
    found: dict[int, Found] = {}
    while len(found) < len(pipes):
        waiting = [pipe for rank, pipe in enumerate(pipes) if rank not in found]
        for pipe in wait(waiting):
            rank = pipes.index(pipe)  # type: ignore[arg-type]
            answer = _answer(rank, pipes[rank], processes[rank])
            if isinstance(answer, Found):
                found[rank] = answer
            else:
                progress(*answer)
    return tuple(found[rank] for rank in range(len(pipes)))


def _answer(rank: int, pipe: Connection, process: SpawnProcess) -> Any:
    try:
        answer = pipe.recv()
    except EOFError:
        process.join()
        raise RankLost(
            f"rank {rank} ended with code {process.exitcode} while it measured; if memory was "
            "short, measure fewer ranks, shorter sequences or smaller micro-batches"
        ) from None
    if isinstance(answer, RaymoeError):
        raise answer
    return answer


def _serve(asked: Measuring, rank: int, port: int, pipe: Connection) -> None:
    prepare()
    torch.set_num_threads(asked.threads)
    device = device_of(asked, rank)
    device.use()
    try:
        membership = Membership(
            "profile", 0, Seat(0, 0, rank), Seats(1, 1, asked.ranks), (0,), _HOST, port, _PATIENCE
        )
        Groups(membership, device.backend, None).connect(device)
        tell: Progress = (lambda done, total: pipe.send((done, total))) if rank == 0 else _quiet
        pipe.send(_found(asked, Clock(device, asked.threads), tell))
    except Exception as error:
        pipe.send(RankLost(f"rank {rank} could not measure: {error}"))
    finally:
        leave_groups()


def _found(asked: Measuring, clock: Clock, progress: Progress) -> Found:
    device, kinds = clock.device, parts_of(asked.config)
    total = len(kinds) + 2
    rates = measure_rates(clock, asked)
    parts: list[Timed] = []
    for done, kind in enumerate(kinds, 1):
        progress(done, total)
        parts += measure_part(kind, asked, clock)
    progress(total - 1, total)
    wire = measure_wire(asked, clock)
    progress(total, total)
    return Found(device.name, rates, tuple(parts), wire, clock.share)


def _quiet(done: int, total: int) -> None:
    """Say nothing: the first rank speaks for all."""
