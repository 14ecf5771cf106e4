"""Ranks as plain processes, without Ray: spawned once, built and joined for plan after plan."""

import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.modules.module import register_module_forward_pre_hook

from actors.commands import StepInput
from actors.crew.gather import gather
from actors.crew.over_pipes import HERE, PipeCrew
from actors.crew.process import RankProcess
from actors.deadlines import Deadlines
from actors.engine.serving import ServingEngine
from actors.engine.training import TrainingEngine
from actors.rank.rank import Rank
from actors.rank.states import Empty, Joined
from actors.state.sources import CheckpointSource, ModelSource, Source
from actors.state.tuned import source_of
from actors.step.replicas import part_of
from moe.checkpoint.drafts import drafted
from moe.checkpoint.training import About, SaveContext, complete
from moe.config.balance_state import BalanceState
from moe.config.products import Products
from moe.config.run import RunConfig
from moe.config.tensors import TensorSlice, held_by
from moe.errors import LaunchError
from moe.nn.product import in_use, use
from moe.planning.plan.file import to_dict
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat, Seats
from moe.storage import Location
from tests import batches

SECONDS = 30.0


class Ranks:
    """Processes, as many as plans have asked for; ``started`` makes the first the ranks of one."""

    def __init__(self) -> None:
        self._processes: list[RankProcess] = []

    def crew(self, seats: Seats, nodes: Sequence[str] = HERE) -> "PooledCrew":
        """Return a crew of living processes; those that a test has killed are replaced."""
        for number in range(len(seats)):
            if number == len(self._processes):
                self._processes.append(RankProcess(number, TestedRank))
            elif self._processes[number].end is not None:
                self._processes[number] = RankProcess(number, TestedRank)
        return PooledCrew(seats, self._processes, nodes)

    def crew_of(self, seats: Seats, numbers: Sequence[int]) -> "PooledCrew":
        """Return a crew of some of the processes, by their numbers in the order of the seats."""
        self.crew(Seats(max(numbers) + 1, 1, 1))
        return PooledCrew(seats, [self._processes[number] for number in numbers], HERE)

    def started(
        self,
        plan: Plan,
        checkpoint: Location,
        run: RunConfig | None = None,
        sequence_length: int = 0,
        resume: bool = False,
    ) -> "Team":
        """Build and join the ranks of a plan."""
        crew, lean = self.crew(plan.seats), single_threaded(plan)
        if run is None:
            ServingEngine.serve(
                crew, "test", lean, checkpoint, Deadlines(group=SECONDS), batches.HOW
            )
        else:
            source: Source = CheckpointSource(checkpoint) if resume else ModelSource(checkpoint)
            if run.train.tuning is not None:
                source = source_of(run, checkpoint if resume else None)
            TrainingEngine.train(crew, run, lean, source, sequence_length)
        return Team(crew, plan, run)

    def pid(self, rank: int) -> int:
        """Return the process of a rank."""
        pid = self._processes[rank].pid
        assert pid is not None
        return pid

    def process(self, rank: int) -> RankProcess:
        """Return what hosts a rank."""
        return self._processes[rank]

    def close(self) -> None:
        for process in self._processes:
            process.kill()


class PooledCrew(PipeCrew):
    """A crew whose processes go back to the pool at the end; those that took their place end."""

    def __init__(self, seats: Seats, pool: Sequence[RankProcess], nodes: Sequence[str]) -> None:
        super().__init__(seats, pool[: len(seats)], TestedRank, nodes)
        self._pool = pool
        self.full = False

    def replace(self, seats: Iterable[Seat], seconds: float) -> None:
        """Start new processes, unless the crew is full."""
        wanted = [*seats]
        if wanted and self.full:
            raise LaunchError("there is no room for another process")
        super().replace(wanted, seconds)

    def end(self) -> None:
        """Leave the processes of the pool; they are built anew for the next plan."""
        for process in self._started:
            if process not in self._pool:
                process.kill()


class Team:
    """The ranks of one plan, commanded one by one."""

    def __init__(self, crew: PipeCrew, plan: Plan, run: RunConfig | None) -> None:
        self.crew = crew
        self.plan = plan
        self.run = run

    def each(self, method: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
        pairs = zip(self.crew.seats, arguments, strict=True)
        answers = {seat: self.crew.tell(seat, method, *own) for seat, own in pairs}
        return gather(self.crew, answers, method, 4 * SECONDS)

    def all(self, method: str, *arguments: Any) -> list[Any]:
        return self.each(method, [arguments] * len(self.crew.seats))

    def step(self, batch: StepInput) -> list[Any]:
        """Run a global batch, each replica its part of it; return the report of every rank."""
        assert self.run is not None
        train, replicas = self.run.train, self.plan.replicas
        parts = [(part_of(batch, train, seat.replica, replicas),) for seat in self.crew.seats]
        return self.each("train_step", parts)

    def save(self, to: Location, context: SaveContext, step: int) -> Location:
        """Write a checkpoint of the steps done; it appears whole or not at all."""
        with drafted(to) as draft:
            self.all("snapshot", step)
            about = About(context, to_dict(self.plan), step)
            complete(draft, about, self.all("write", draft, step))
        return to

    def held(self) -> list["Held"]:
        """Return what every rank holds."""
        return self.all("held")


@dataclass(frozen=True)
class Held:
    """Copies of what a rank holds: weights, and of what it owns the moments and gradients."""

    weights: list[tuple[TensorSlice, torch.Tensor]]
    owned: list[tuple[TensorSlice, slice, dict[str, torch.Tensor]]]
    balance: dict[int, BalanceState]


class TestedRank(Rank):
    """A rank that can be looked into."""

    def empty(self) -> None:
        """Be as a process that has just started."""
        self.abort()
        self._state = Empty()

    def rules(self, products: Products | None = None) -> Products:
        """Return the rules of products; follow others before, if given."""
        if products is not None:
            use(products)
        return in_use()

    def stand_at(self, step: int) -> None:
        """Be a rank that has done another number of steps."""
        self._trainer().steps_done = step

    def unlike(self) -> bool:
        """Return whether this rank takes its leader's choices."""
        assert not isinstance(self._state, Empty)
        return self._state.share._exchange.unlike

    def held(self) -> Held:
        assert not isinstance(self._state, Empty)
        trainer, decoder = self._state.share.trainer, self._state.share.decoder
        assert trainer is not None
        weights = dict(decoder.named_parameters())
        parts = list(held_by(decoder.config, decoder.share))
        gradients = {
            owned.range: bucket.owned.grad[owned.slice]
            for bucket in trainer._buckets
            for owned in bucket.owned_slots()
        }
        return Held(
            [(part, weights[part.name].detach().clone()) for part in parts],
            [
                (
                    state.range.part,
                    slice(state.range.start, state.range.stop),
                    {name: value.clone() for name, value in state.moments.items()}
                    | {"gradient": gradients[state.range].clone()},
                )
                for state in trainer.optimizer.states()
            ],
            dict(trainer.balancer.states),
        )

    def name_backend(self, backend: str, hidden: tuple[str, ...] = ()) -> None:
        """Go on as where the groups have another backend, and torch lacks some functions.

        With nothing hidden, torch has all its functions again.
        """
        assert isinstance(self._state, Joined)
        self._state.groups.backend = backend
        for name in ("reduce_scatter_single", "all_gather_single"):
            if name in hidden:
                delattr(dist, name)
            else:
                setattr(dist, name, getattr(dist.distributed_c10d, name))

    def die_in_update(self) -> None:
        """Kill this process in its next step, when some of its weights have moved."""
        assert not isinstance(self._state, Empty)
        trainer = self._state.share.trainer
        assert trainer is not None
        moved = trainer.optimizer.step

        def die(step: int, *groups: Any) -> float:
            moved(step, *groups)
            os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError

        setattr(trainer.optimizer, "step", die)  # noqa: B010

    def die_in_forward(self) -> None:
        """Kill this process in the next layer that runs."""
        register_module_forward_pre_hook(lambda *_: os.kill(os.getpid(), signal.SIGKILL))

    def fail_once(self, error: type[Exception], text: str) -> None:
        """Have the next layer that runs raise an error, as a device does; none: use up memory."""

        def fail(*_: Any) -> None:
            handle.remove()
            if not text:
                torch.empty(2**50)
            raise error(text)

        handle = register_module_forward_pre_hook(fail)


def single_threaded(plan: Plan) -> Plan:
    """Return the plan for a machine that all its ranks share."""
    stages = [
        replace(stage, ranks=tuple(replace(rank, threads=1) for rank in stage.ranks))
        for stage in plan.stages
    ]
    return replace(plan, stages=tuple(stages))


@contextmanager
def pool() -> Iterator[Ranks]:
    ranks = Ranks()
    try:
        yield ranks
    finally:
        ranks.close()
