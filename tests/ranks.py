"""Ranks as plain processes, without Ray: spawned once, built and joined for plan after plan."""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import torch

from actors.commands import BuildCommand, StepInput
from actors.epochs.membership import Membership
from actors.rank.rank import Rank
from actors.step.replicas import part_of
from moe.checkpoint.records import WrittenFiles
from moe.config.balance_state import BalanceState
from moe.config.run import RunConfig
from moe.config.tensors import TensorSlice, held_by
from moe.planning.plan.plan import Plan
from moe.storage import Location

SECONDS = 30.0


class Ranks:
    """Processes, as many as plans have asked for; ``started`` makes the first the ranks of one."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes: list[SpawnProcess] = []
        self._epoch = 0

    def started(
        self,
        plan: Plan,
        checkpoint: Path,
        run: RunConfig | None = None,
        sequence_length: int = 0,
        resume: bool = False,
    ) -> "Team":
        """Build and join the ranks of a plan."""
        world = plan.replicas * plan.ranks
        self._grow(world)
        team = Team(self._pipes[:world], plan, run)
        lean = _single_threaded(plan)
        commands = [
            BuildCommand("test", checkpoint, lean, rank, sequence_length, run, resume)
            for rank in range(world)
        ]
        team.each("build", [(command,) for command in commands])
        self._epoch += 1
        host, port = team.one(0, "open_store", "127.0.0.1", SECONDS)
        ends = (plan.home(0), plan.home(-1))
        shape = (plan.replicas, len(plan.stages), plan.gang_size, ends)
        team.each(
            "join",
            [
                (Membership("test", self._epoch, rank, *shape, host, port, SECONDS),)
                for rank in range(world)
            ],
        )
        return team

    def _grow(self, size: int) -> None:
        for number in range(len(self._pipes), size):
            ours, theirs = self._context.Pipe()
            process = self._context.Process(target=_serve, args=(number, theirs), daemon=True)
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)

    def close(self) -> None:
        for process in self._processes:
            process.terminate()
            process.join()


class Team:
    """The ranks of one plan."""

    def __init__(self, pipes: list[Connection], plan: Plan, run: RunConfig | None) -> None:
        self._pipes = pipes
        self.plan = plan
        self.run = run

    def each(self, method: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
        for pipe, own in zip(self._pipes, arguments, strict=True):
            pipe.send((method, own))
        answers = [pipe.recv() for pipe in self._pipes]
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return answers

    def all(self, method: str, *arguments: Any) -> list[Any]:
        return self.each(method, [arguments] * len(self._pipes))

    def one(self, rank: int, method: str, *arguments: Any) -> Any:
        self._pipes[rank].send((method, arguments))
        answer = self._pipes[rank].recv()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def step(self, batch: StepInput) -> list[Any]:
        """Run a global batch, each replica its part of it."""
        assert self.run is not None
        parts = [
            (part_of(batch, self.run.train, replica, self.plan.replicas),)
            for replica in range(self.plan.replicas)
            for _ in range(self.plan.ranks)
        ]
        return self.each("train_step", parts)

    def save(self, directory: Location) -> list[WrittenFiles]:
        """Have every rank take a snapshot of the step it is at, and write it."""
        (step,) = {status.step for status in self.all("status")}
        self.all("snapshot", step)
        return self.all("write", directory, step)

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

    def held(self) -> Held:
        assert self._built is not None
        trainer, decoder = self._built.trainer, self._built.decoder
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


def _single_threaded(plan: Plan) -> Plan:
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


def _serve(number: int, pipe: Connection) -> None:
    rank = TestedRank(number)
    while True:
        method, arguments = pipe.recv()
        try:
            pipe.send(getattr(rank, method)(*arguments))
        except BaseException as error:
            pipe.send(error)
