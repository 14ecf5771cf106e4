"""Drives the actors of one plan: launch or attach, step, save, infer, end.

The engine calls each actor once for a step and waits with a deadline. It holds no tensors and no
state that the actors could not tell a new engine: one that dies is replaced by another that
attaches to the same actors.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from actors.calls import gather
from actors.commands import BuildCommand, InferInput, RankStatus, StepInput, StepReport
from actors.crew import launch
from actors.deadlines import Deadlines, deadlines_of
from actors.engine.reports import merge
from actors.epochs.membership import Membership
from actors.state.checkpointing import PendingWrites
from actors.step.replicas import check_step, part_of
from moe.checkpoint.drafts import drafted
from moe.checkpoint.manifest import load_manifest
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.training import About, SaveContext, complete
from moe.config.run import RunConfig
from moe.config.sampling import SampledToken, Sampling
from moe.errors import DeadlineExceeded, RankLost, RaymoeError
from moe.planning.plan.file import to_dict
from moe.planning.plan.plan import Plan
from moe.storage import Location

HEALTH_SECONDS = 10.0
"""A health check waits no longer than this, and no longer than the group deadline."""

POLL_SECONDS = 0.1

GRACE_SECONDS = 1.0
"""All ranks begin and end a step at nearly the same time; one that is out of it for so long while
others are in it was never told of it."""


class Engine:
    """Runs one plan under one name: all replicas of its pipeline, or ``only`` one of them.

    ``actors`` are those of all replicas. Where each replica has a driver of its own, one of them
    launches, begins epochs and saves for all; every driver steps its own.
    """

    def __init__(
        self,
        name: str,
        plan: Plan,
        actors: launch.Actors,
        deadlines: Deadlines,
        run: RunConfig | None = None,
    ) -> None:
        self.name = name
        self.plan = plan
        self._actors = actors
        self._deadlines = deadlines
        self._run = run
        self._epoch = 0
        self._driven = range(plan.replicas)
        self._lengths: dict[str, int] = {}
        self._needs_tokens: tuple[bool, ...] = ()

    @classmethod
    def train(
        cls, run: RunConfig, plan: Plan, checkpoint: Location, sequence_length: int, resume: bool
    ) -> "Engine":
        """Launch detached actors that train from a model directory, or resume from a checkpoint."""
        check_step(plan, run.train.schedule, run.train.micro_batches)
        engine = cls._launched(run.name, plan, deadlines_of(run), run)
        return engine._ready(checkpoint, sequence_length, resume)

    @classmethod
    def serve(
        cls, name: str, model: Path, plan: Plan, deadlines: Deadlines | None = None
    ) -> "Engine":
        """Launch actors that only generate; they end with the calling process."""
        engine = cls._launched(name, plan, deadlines or Deadlines(), None)
        return engine._ready(model, 0, False)

    @classmethod
    def attach(cls, run: RunConfig, plan: Plan) -> "Engine | None":
        """Take over the living actors of a run; None unless all live and stand at one step.

        Ranks in the middle of a step may have been left there by a driver that died before it had
        commanded all: the step is commanded again, and who has done it answers at once. Actors
        whose groups broke, or that hold a snapshot which a dead driver has not had written, end
        what they do and meet under a new epoch. A rank that failed with its weights half updated
        cannot go on.
        """
        actors = launch.find(run.name, plan.replicas * plan.ranks)
        if actors is None:
            return None
        engine = cls(run.name, plan, actors, deadlines_of(run), run)
        try:
            status = engine.status()
            if not all(rank.built and rank.replicas == plan.replicas for rank in status):
                return None
            engine._take(status)
            if not engine._whole(status):
                status = engine._settle(status)
                if len({rank.step for rank in status}) > 1 or any(rank.torn for rank in status):
                    return None
                engine._begin_epoch()
        except RaymoeError:
            return None
        return engine

    @classmethod
    def beside(cls, run: RunConfig, plan: Plan) -> "Engine":
        """Return an engine over the actors that another driver has made ready."""
        actors = launch.find(run.name, plan.replicas * plan.ranks)
        if actors is None:
            raise RankLost(f"some actors of {run.name} are gone before all drivers found them")
        engine = cls(run.name, plan, actors, deadlines_of(run), run)
        engine._take(engine.status())
        return engine

    def only(self, replica: int) -> "Engine":
        """Return an engine over the same actors that steps one replica."""
        own = Engine(self.name, self.plan, self._actors, self._deadlines, self._run)
        own._epoch, own._needs_tokens = self._epoch, self._needs_tokens
        own._driven = range(replica, replica + 1)
        return own

    def train_step(self, batch: StepInput) -> StepReport:
        """Run one step of a global batch on every rank driven.

        Tokens go where they are needed, labels to the stage with the head, each replica's to it.
        """
        started = time.perf_counter()
        assert self._run is not None
        refs: list[Any] = []
        for replica in self._driven:
            part = part_of(batch, self._run.train, replica, self.plan.replicas)
            for rank in range(self.plan.ranks):
                number = replica * self.plan.ranks + rank
                own = StepInput(
                    batch.step,
                    part.tokens if self._needs_tokens[number] else None,
                    part.labels if self.plan.share(rank).head else None,
                    batch.label_count,
                )
                refs.append(self._actors[number].train_step.remote(own))
        first = self._driven.start * self.plan.ranks
        reports = self._gather(refs, f"step {batch.step}", self._deadlines.command, first)
        return merge(reports, batch.label_count, time.perf_counter() - started)

    def snapshot(self, step: int) -> None:
        """Have every rank driven copy what it holds after ``step``, and wait until they have.

        All ranks of the run must, after the same step: each driver asks its own.
        """
        first, end = (n * self.plan.ranks for n in (self._driven.start, self._driven.stop))
        refs: list[Any] = [actor.snapshot.remote(step) for actor in self._actors[first:end]]
        doing, wait = "taking a snapshot", self._deadlines.command
        self._gather(refs, doing, wait, first)

    def write(self, directory: Location, step: int) -> PendingWrites:
        """Have all ranks of the run write the snapshot of a step there, while they train on."""
        doing = f"writing {directory.name}"
        refs: list[Any] = [actor.write.remote(directory, step) for actor in self._actors]
        return PendingWrites(refs, lambda: self._gather(refs, doing, self._deadlines.command))

    def written_before(self, step: int) -> None:
        """Wait until all ranks of the run have written what they took before a step."""
        deadline = time.monotonic() + self._deadlines.command
        while late := [r.rank for r in self.status() if r.saving is not None and r.saving < step]:
            if time.monotonic() > deadline:
                raise DeadlineExceeded(
                    f"ranks {late} have not written the checkpoint before step {step} within "
                    f"{self._deadlines.command:g} s; raise cluster.step_seconds or checkpoint.every"
                )
            time.sleep(POLL_SECONDS)

    def save(self, directory: Location, context: SaveContext) -> None:
        """Write a checkpoint of the steps done and wait; it appears whole or not at all."""
        step = self.steps_done()
        with drafted(directory) as staging:
            self.snapshot(step)
            about = About(context, to_dict(self.plan), step)
            complete(staging, about, self.write(staging, step).result())

    def infer(self, sequence: str, tokens: Sequence[int], sampling: Sampling) -> SampledToken:
        """Append tokens to a sequence and return the token that follows."""
        position = self._lengths.get(sequence, 0)
        work = InferInput(sequence, tuple(tokens), position, sampling)
        answers = self._all(
            "infer", work, doing="inference", actors=self._actors[: self.plan.ranks]
        )
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
        """Return how many steps every rank has done."""
        return min(rank.step for rank in self.status())

    def last_report(self) -> StepReport | None:
        """Return the report of the last step; None before the first.

        None also while some have done the next. Its ``seconds`` are those of the slowest rank, its
        ``tokens`` are not known here.
        """
        reports = [rank.report for rank in self.status()]
        done = [report for report in reports if report is not None]
        if len(done) < len(reports) or len({report.step for report in done}) > 1:
            return None
        return merge(done, 0, max(report.busy_seconds for report in done))

    def busy(self) -> bool:
        """Tell whether any rank is in a step, as a driver that died may have left it."""
        return any(rank.busy for rank in self.status())

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
    def _launched(
        cls, name: str, plan: Plan, deadlines: Deadlines, run: RunConfig | None
    ) -> "Engine":
        actors = launch.launch(name, plan, run is not None, deadlines.launch)
        return cls(name, plan, actors, deadlines, run)

    def _ready(self, checkpoint: Location, sequence_length: int, resume: bool) -> "Engine":
        """Build every rank and begin the first epoch; on failure leave nothing behind."""
        try:
            manifest = load_manifest(checkpoint) if resume else None
            self.plan.check_model(Checkpoint.open(checkpoint, manifest).config)
            refs = [
                actor.build.remote(
                    BuildCommand(
                        name=self.name,
                        checkpoint=checkpoint.absolute(),
                        plan=self.plan,
                        rank=rank,
                        sequence_length=sequence_length,
                        run=self._run,
                        resume=resume,
                    )
                )
                for rank, actor in enumerate(self._actors)
            ]
            self._gather(refs, "building", self._deadlines.launch)
            self._begin_epoch()
            self._take(self.status())
        except BaseException:
            self.shutdown()
            raise
        return self

    def _take(self, status: Sequence[RankStatus]) -> None:
        """Remember what the actors say of themselves."""
        self._epoch = max(rank.epoch for rank in status)
        self._needs_tokens = tuple(rank.needs_tokens for rank in status)

    def _whole(self, status: Sequence[RankStatus]) -> bool:
        """Tell whether all ranks are in one epoch, in the same step or the next, with no save."""
        steps = [rank.step for rank in status]
        together = all(rank.joined and rank.epoch == self._epoch for rank in status)
        saving = any(rank.saving is not None for rank in status)
        return together and not saving and max(steps) - min(steps) <= 1

    def _settle(self, status: Sequence[RankStatus]) -> list[RankStatus]:
        """Have all ranks end what they do: a step that all are in is finished, others are not.

        Those that are in a step wait for those that are not, whose driver died before it had
        commanded them; a moment is left for the step to end on all.
        """
        began = split = time.monotonic()
        while all(rank.joined for rank in status) and any(rank.busy for rank in status):
            now = time.monotonic()
            split = now if all(rank.busy for rank in status) else split
            if now - began > self._deadlines.group or now - split > GRACE_SECONDS:
                break
            time.sleep(POLL_SECONDS)
            status = self.status()
        self._abort()
        return self._ask("settled", self._deadlines.group)

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
                    replicas=self.plan.replicas,
                    stages=len(self.plan.stages),
                    gang=self.plan.gang_size,
                    ends=(self.plan.home(0), self.plan.home(-1)),
                    host=host,
                    port=port,
                    seconds=self._deadlines.group,
                )
            )
            for rank, actor in enumerate(self._actors)
        ]
        self._gather(refs, f"joining epoch {self._epoch}", self._deadlines.launch)

    def _all(
        self, method: str, *args: Any, doing: str, actors: launch.Actors | None = None
    ) -> list[Any]:
        """Give every rank a command in which they work together."""
        refs = [getattr(actor, method).remote(*args) for actor in actors or self._actors]
        return self._gather(refs, doing, self._deadlines.command)

    def _ask(self, method: str, seconds: float) -> list[RankStatus]:
        """Ask every rank for its status; a late answer disturbs nobody's work."""
        refs = [getattr(actor, method).remote() for actor in self._actors]
        return gather(refs, f"the answer to {method}", seconds)

    def _gather(self, refs: list[Any], doing: str, seconds: float, first: int = 0) -> list[Any]:
        """Wait for ranks from ``first`` on; where one fails or is late, free all others."""
        try:
            return gather(refs, doing, seconds, first)
        except RaymoeError:
            self._abort()
            raise

    def _abort(self) -> None:
        """Make every rank drop its process groups, under whatever it does."""
        aborted: list[Any] = [actor.abort.remote() for actor in self._actors]
        ray.wait(aborted, num_returns=len(aborted), timeout=self._deadlines.group)
