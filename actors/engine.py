"""Drives the actors of one plan: launch or attach, step, save, infer, end.

The engine calls each actor once for a step and waits with a deadline. It holds no tensors and no
state that the actors could not tell a new engine: one that dies is replaced by another that
attaches to the same actors.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from actors import launch
from actors.calls import gather
from actors.checkpointing import SaveContext, complete
from actors.commands import BuildCommand, InferInput, RankStatus, StageReport, StepInput, StepReport
from actors.membership import Membership
from moe.checkpoint.drafts import drafted
from moe.checkpoint.reader import Checkpoint
from moe.config.run import RunConfig
from moe.config.sampling import SampledToken, Sampling
from moe.errors import RankLost, RaymoeError
from moe.planning.plan import Plan
from moe.storage import Place

HEALTH_SECONDS = 10.0
"""A health check waits no longer than this, and no longer than the group deadline."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds to wait: for actors to start, for a command, for one message between ranks."""

    launch: float = 180.0
    command: float = 1800.0
    group: float = 120.0


class Engine:
    """Runs one plan under one name."""

    def __init__(self, name: str, plan: Plan, actors: launch.Actors, deadlines: Deadlines) -> None:
        self.name = name
        self.plan = plan
        self._actors = actors
        self._deadlines = deadlines
        self._epoch = 0
        self._lengths: dict[str, int] = {}
        self._needs_tokens: tuple[bool, ...] = ()

    @classmethod
    def train(
        cls, run: RunConfig, plan: Plan, checkpoint: Place, sequence_length: int, resume: bool
    ) -> "Engine":
        """Launch detached actors that train from a model directory, or resume from a checkpoint."""
        engine = cls._launched(run.name, plan, deadlines_of(run), detached=True)
        return engine._ready(checkpoint, sequence_length, run, resume)

    @classmethod
    def serve(
        cls, name: str, model: Path, plan: Plan, deadlines: Deadlines | None = None
    ) -> "Engine":
        """Launch actors that only generate; they end with the calling process."""
        engine = cls._launched(name, plan, deadlines or Deadlines(), detached=False)
        return engine._ready(model, 0, None, False)

    @classmethod
    def attach(cls, run: RunConfig, plan: Plan) -> "Engine | None":
        """Take over the living actors of a run; None unless all live and stand at one step.

        Waits for a step that is still running. Actors whose groups broke meet under a new epoch.
        """
        actors = launch.find(run.name, plan.ranks)
        if actors is None:
            return None
        engine = cls(run.name, plan, actors, deadlines_of(run))
        try:
            status = engine._ask("settled", engine._deadlines.command)
            if not all(rank.built for rank in status) or len({rank.step for rank in status}) > 1:
                return None
            engine._epoch = max(rank.epoch for rank in status)
            engine._needs_tokens = tuple(rank.needs_tokens for rank in status)
            if not all(rank.joined and rank.epoch == engine._epoch for rank in status):
                engine._begin_epoch()
        except RaymoeError:
            return None
        return engine

    def train_step(self, batch: StepInput) -> StepReport:
        """Run one step on every rank; tokens go where they are needed, labels to the last stage."""
        started = time.perf_counter()
        refs: list[Any] = []
        for rank, actor in enumerate(self._actors):
            share = self.plan.share(rank)
            own = StepInput(
                batch.step,
                batch.tokens if self._needs_tokens[rank] else None,
                batch.labels if share.head else None,
                batch.label_count,
            )
            refs.append(actor.train_step.remote(own))
        reports = self._gather(refs, f"step {batch.step}", self._deadlines.command)
        return merge(reports, batch.label_count, time.perf_counter() - started)

    def save(self, directory: Place, context: SaveContext) -> None:
        """Write a checkpoint of the steps done; it appears whole or not at all."""
        with drafted(directory) as staging:
            saved = self._all("save", staging, doing=f"saving {directory.name}")
            complete(staging, saved, self.steps_done(), self.plan, context)

    def infer(self, sequence: str, tokens: Sequence[int], sampling: Sampling) -> SampledToken:
        """Append tokens to a sequence and return the token that follows."""
        position = self._lengths.get(sequence, 0)
        work = InferInput(sequence, tuple(tokens), position, sampling)
        answers = self._all("infer", work, doing="inference")
        self._lengths[sequence] = position + len(work.tokens)
        token: SampledToken = next(answer for answer in answers if answer is not None)
        return token

    def release(self, sequence: str) -> None:
        """Forget a sequence on every rank."""
        if self._lengths.pop(sequence, None) is not None:
            self._all("release", sequence, doing="release")

    def status(self) -> list[RankStatus]:
        """Return what every rank holds now, also while a step runs."""
        return self._ask("status", self._deadlines.group)

    def steps_done(self) -> int:
        """Return how many steps the run has done."""
        return max(rank.step for rank in self.status())

    def last_report(self) -> StepReport | None:
        """Return the report of the last step, or None before the first of these actors.

        Its ``seconds`` are those of the slowest rank, its ``tokens`` are not known here.
        """
        reports = [rank.report for rank in self.status()]
        done = [report for report in reports if report is not None]
        if len(done) < len(reports):
            return None
        return merge(done, 0, max(report.busy_seconds for report in done))

    def healthy(self) -> bool:
        """Tell whether every rank answers and belongs to the epoch."""
        try:
            status = self._ask("status", min(self._deadlines.group, HEALTH_SECONDS))
        except RaymoeError:
            return False
        return all(rank.joined and rank.epoch == self._epoch for rank in status)

    def shutdown(self) -> None:
        """End all actors and give their places back."""
        launch.remove(self.name)

    @classmethod
    def _launched(cls, name: str, plan: Plan, deadlines: Deadlines, detached: bool) -> "Engine":
        actors = launch.launch(name, plan, detached, deadlines.launch)
        return cls(name, plan, actors, deadlines)

    def _ready(
        self, checkpoint: Place, sequence_length: int, run: RunConfig | None, resume: bool
    ) -> "Engine":
        """Build every rank and begin the first epoch; on failure leave nothing behind."""
        try:
            self.plan.check_model(Checkpoint.open(checkpoint).config)
            refs = [
                actor.build.remote(
                    BuildCommand(
                        name=self.name,
                        checkpoint=checkpoint.absolute(),
                        plan=self.plan,
                        rank=rank,
                        sequence_length=sequence_length,
                        run=run,
                        resume=resume,
                    )
                )
                for rank, actor in enumerate(self._actors)
            ]
            self._gather(refs, "building", self._deadlines.launch)
            self._begin_epoch()
            self._needs_tokens = tuple(rank.needs_tokens for rank in self.status())
        except BaseException:
            self.shutdown()
            raise
        return self

    def _begin_epoch(self) -> None:
        self._epoch += 1
        self._lengths.clear()
        opened: Any = self._actors[0].open_store.remote(self._deadlines.group)
        ((host, port),) = gather([opened], "opening the store", self._deadlines.group)
        refs = [
            actor.join.remote(
                Membership(
                    run=self.name,
                    epoch=self._epoch,
                    rank=rank,
                    stages=len(self.plan.stages),
                    gang=self.plan.gang_size,
                    host=host,
                    port=port,
                    seconds=self._deadlines.group,
                )
            )
            for rank, actor in enumerate(self._actors)
        ]
        self._gather(refs, f"joining epoch {self._epoch}", self._deadlines.launch)

    def _all(self, method: str, *args: Any, doing: str) -> list[Any]:
        """Give every rank a command in which they work together."""
        refs = [getattr(actor, method).remote(*args) for actor in self._actors]
        return self._gather(refs, doing, self._deadlines.command)

    def _ask(self, method: str, seconds: float) -> list[RankStatus]:
        """Ask every rank for its status; a late answer disturbs nobody's work."""
        refs = [getattr(actor, method).remote() for actor in self._actors]
        return gather(refs, f"the answer to {method}", seconds)

    def _gather(self, refs: list[Any], doing: str, seconds: float) -> list[Any]:
        """Wait for all ranks; where one fails or is late, free the others from waiting for it."""
        try:
            return gather(refs, doing, seconds)
        except RaymoeError:
            aborted: list[Any] = [actor.abort.remote() for actor in self._actors]
            ray.wait(aborted, num_returns=len(aborted), timeout=self._deadlines.group)
            raise


def deadlines_of(run: RunConfig) -> Deadlines:
    """Return the deadlines a run file sets."""
    cluster = run.cluster
    return Deadlines(cluster.launch_seconds, cluster.step_seconds, cluster.group_seconds)


def merge(reports: Sequence[StageReport], tokens: int, seconds: float) -> StepReport:
    """Join the accounts of all ranks into one of the run."""
    losses = [report.loss for report in reports if report.loss is not None]
    if not losses:
        raise RankLost("no rank reported a loss; the last stage is missing from the reports")
    return StepReport(
        step=reports[0].step,
        loss=losses[0],
        gradient_norm=reports[0].gradient_norm,
        learning_rate=reports[0].learning_rate,
        tokens=tokens,
        seconds=seconds,
        layers={k: v for report in reports for k, v in report.layers.items()},
        peak_bytes=tuple(report.peak_bytes for report in reports),
    )
