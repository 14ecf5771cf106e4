"""Ranks as plain processes, without Ray: spawned once, built and joined for plan after plan."""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from actors.commands import BuildCommand, StepInput
from actors.membership import Membership
from actors.rank import Rank
from moe.config.run import RunConfig
from moe.planning.plan import Plan

SECONDS = 30.0


class Ranks:
    """A pool of processes; ``started`` makes the first of them the ranks of a plan."""

    def __init__(self, size: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        self._epoch = 0
        for number in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(number, theirs), daemon=True)
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)

    def started(
        self,
        plan: Plan,
        checkpoint: Path,
        run: RunConfig | None = None,
        sequence_length: int = 0,
        resume: bool = False,
    ) -> "Team":
        """Build and join the ranks of a plan."""
        team = Team(self._pipes[: plan.ranks], plan)
        lean = _single_threaded(plan)
        commands = [
            BuildCommand("test", checkpoint, lean, rank, sequence_length, run, resume)
            for rank in range(plan.ranks)
        ]
        team.each("build", [(command,) for command in commands])
        self._epoch += 1
        host, port = team.one(0, "open_store", "127.0.0.1", SECONDS)
        shape = (len(plan.stages), plan.gang_size)
        team.each(
            "join",
            [
                (Membership("test", self._epoch, rank, *shape, host, port, SECONDS),)
                for rank in range(plan.ranks)
            ],
        )
        return team

    def close(self) -> None:
        for process in self._processes:
            process.terminate()
            process.join()


class Team:
    """The ranks of one plan."""

    def __init__(self, pipes: list[Connection], plan: Plan) -> None:
        self._pipes = pipes
        self.plan = plan

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
        return self.all("train_step", batch)


def _single_threaded(plan: Plan) -> Plan:
    """Return the plan for a machine that all its ranks share."""
    stages = [
        replace(stage, ranks=tuple(replace(rank, threads=1) for rank in stage.ranks))
        for stage in plan.stages
    ]
    return replace(plan, stages=tuple(stages))


@contextmanager
def pool(size: int) -> Iterator[Ranks]:
    ranks = Ranks(size)
    try:
        yield ranks
    finally:
        ranks.close()


def _serve(number: int, pipe: Connection) -> None:
    rank = Rank(number)
    while True:
        method, arguments = pipe.recv()
        try:
            pipe.send(getattr(rank, method)(*arguments))
        except BaseException as error:
            pipe.send(error)
