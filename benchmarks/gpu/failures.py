"""Trouble on purpose: groups left under work, a rank killed in a step, memory that runs out."""

import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch

from actors.calls import Answer
from actors.engine.healing import Healed, Surroundings
from actors.engine.training import TrainingEngine
from benchmarks.gpu.rows import Figure, Row, Setting, at_most, attempted, holds
from benchmarks.gpu.team import SECONDS, CheckedRank, Team, batch, team
from moe.errors import OutOfMemory, RankLost

FREED, ABORTED = 5.0, 2.0
"""Seconds until a rank whose neighbour died is free, and until a busy rank has left its groups."""

_SIDE, _PRODUCTS = 8192, 900
"""Products queued before an abort: over a second of work, and as many launches as a queue takes."""

_LEAD_SECONDS = 0.5

_BALLAST = (2**20, 2**16, 2**12, 2**9)
"""Bytes of the tensors that fill free memory, the large ones first."""


class TroubledRank(CheckedRank):
    """A rank that can be kept busy, and that can be left without memory."""

    def abort_under_work(self) -> float:
        """Queue work on a GPU, leave the epoch meanwhile, and return the seconds of leaving."""
        device = self._share().device.torch_device
        if device.type == "cuda":
            x = torch.randn(_SIDE, _SIDE, device=device).bfloat16()
            out = torch.empty_like(x)
            for _ in range(_PRODUCTS):
                torch.mm(x, x, out=out)
        started = time.perf_counter()
        self.abort()
        return time.perf_counter() - started

    def starve(self) -> None:
        """Allow no more memory than is taken now, and fill what of it is free."""
        device = self._share().device.torch_device
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(torch.cuda.memory_reserved() / total)
        self._ballast: list[torch.Tensor] = []
        for size in _BALLAST:
            with suppress(torch.OutOfMemoryError):
                while True:
                    self._ballast.append(torch.empty(size, dtype=torch.uint8, device=device))

    def feed(self) -> None:
        """Allow all the memory that there is."""
        self._ballast.clear()
        torch.cuda.set_per_process_memory_fraction(1.0)


def rows(setting: Setting, folder: Path) -> Iterator[Row]:
    """Yield what became of each trouble; ``folder`` has a model."""
    with team(setting, folder, make=TroubledRank) as one:
        one.step(0)
        yield attempted("groups left under work", partial(_left_under_work, one))
        yield attempted("an abort in a step", partial(_left_in_a_step, one))
        if setting.cuda:
            yield attempted("out of memory", partial(_out_of_memory, one))
    with team(setting, folder, (1, 2)) as two:
        two.step(0)
        yield attempted("a rank killed in a step", partial(_killed, two))


def _left_under_work(one: Team) -> Row:
    """A rank leaves its groups while kernels run, and its weights stay as they are."""
    (before,) = one.each("digest")
    (seconds,) = one.each("abort_under_work")
    same = one.each("digest") == [before]
    bars = (at_most("seconds", seconds, ABORTED), holds("weights are untouched", same))
    return Row("groups left under work", {"seconds": seconds}, bars)


def _left_in_a_step(one: Team) -> Row:
    """An abort in a step leaves the weights of before or of after it, or a rank that says torn."""
    done = _attached(one).steps_done()
    (before,) = one.each("digest")
    step = _answer(one, done)
    (seat,) = one.crew.seats
    one.crew.tell(seat, "abort").result(SECONDS)
    error = step.exception(SECONDS)
    (status,) = one.each("settled")
    moved = one.each("digest") != [before]
    known = status.step > done or status.torn
    engine = one.begin(one.source) if status.torn else _attached(one)
    loss = engine.train_step(batch(engine.steps_done())).loss
    bars = (
        holds("weights moved only with the step", moved == known),
        holds("the next step runs", loss > 0),
    )
    return Row("an abort in a step", {"the step": _named(error), "torn": status.torn}, bars)


def _killed(two: Team) -> Row:
    """Rank 0 waits in a step for rank 1, which dies."""
    first = two.plan.seats.seat(0)
    before = two.crew.tell(first, "digest").result(SECONDS)
    waiting = two.crew.tell(first, "train_step", batch(1))
    time.sleep(_LEAD_SECONDS)
    started = time.perf_counter()
    two.processes[1].kill()
    error = waiting.exception(SECONDS)
    seconds = time.perf_counter() - started
    after = two.crew.tell(first, "digest").result(SECONDS)
    bars = (
        at_most("seconds", seconds, FREED),
        holds("the neighbour is said to be lost", isinstance(error, RankLost)),
        holds("weights are untouched", before == after),
    )
    return Row(
        "a rank killed in a step", {"seconds": seconds, "its neighbour": _named(error)}, bars
    )


def _out_of_memory(one: Team) -> Row:
    """A step that runs out of memory is an error of its own, and the process lives on."""
    done = _attached(one).steps_done()
    one.each("starve")
    error = _answer(one, done).exception(SECONDS)
    one.each("feed")
    bars = (
        holds("an error of its own", isinstance(error, OutOfMemory)),
        holds("the next step runs", _attached(one).train_step(batch(done)).loss > 0),
    )
    return Row("out of memory", {"the step": _named(error)}, bars)


def _answer(one: Team, step: int) -> Answer:
    (seat,) = one.crew.seats
    return one.crew.tell(seat, "train_step", batch(step))


def _attached(one: Team) -> TrainingEngine:
    """Return an engine of the same ranks under a new epoch, as a new driver would have."""
    engine = TrainingEngine.attach(one.crew, one.plan, one.making)
    if engine is None or not isinstance(engine.recover(Surroundings(0, 0)), Healed):
        raise RankLost("the ranks cannot meet again; they must restart from a checkpoint")
    return engine


def _named(error: BaseException | None) -> Figure:
    return "done" if error is None else f"{type(error).__name__}: {error}"
