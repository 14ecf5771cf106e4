"""One rank of a run: the commands that train it, move it, copy it, and have it generate."""

import gc
from collections.abc import Mapping
from functools import partial

from actors.commands import (
    AdapterSource,
    Answerable,
    Answering,
    Batch,
    BatchOutput,
    CopyReport,
    RankReport,
    Recovery,
    StepInput,
)
from actors.epochs.failures import conclusive, guarded
from actors.faults.points import POINTS
from actors.moving.transfer import Moved, Transfer
from actors.rank.answer_room import check_room
from actors.rank.member import Member
from actors.rank.states import Built, Empty
from actors.state.sources import Source
from moe.checkpoint.records import WrittenFiles
from moe.errors import RankLost
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat
from moe.storage import Location


class Rank(Member):
    """Commanded step by step, once it has joined an epoch.

    Every public method, also those of ``Member``, is one command of the engine.
    ``actors.rank.queues`` says which of them run beside others.
    """

    def train_step(self, batch: StepInput) -> RankReport:
        """Run one step; the one just done gives its report again, any other is refused."""
        self._silence.heard()
        share, trainer = self._share(), self._trainer()
        if share.report is not None and batch.step + 1 == trainer.steps_done:
            return share.report
        if trainer.torn:
            raise RankLost(
                f"rank {self.number} failed when step {trainer.steps_done} was half done; it must "
                "recover from a copy, or restart from a checkpoint"
            )
        if batch.step != trainer.steps_done:
            raise RankLost(
                f"rank {self.number} has done {trainer.steps_done} steps, step {batch.step} was "
                "asked for; the ranks no longer agree and must restart from a checkpoint"
            )
        with self._communicating(f"step {batch.step}"):
            report = trainer.step(batch, self._hold_back)
        first = share.report is None
        share.report = report
        if first:
            weights = dict(share.decoder.named_parameters())
            with conclusive(self._doing("making memory for snapshots ready")):
                self._saver().prepare(weights, trainer.states())
        return report

    def snapshot(self, step: int) -> None:
        """Copy what this rank contributes to a checkpoint after ``step`` steps; no others do."""
        share, trainer, saver = self._share(), self._trainer(), self._saver()
        self._check_step(step, "a snapshot")
        weights = dict(share.decoder.named_parameters())
        seconds, states = trainer.run.cluster.step_seconds, trainer.states()
        with conclusive(self._doing("taking a snapshot")):
            saver.take(step, weights, states, trainer.balancer.states, seconds)

    def write(self, directory: Location, step: int) -> WrittenFiles:
        """Write the snapshot of a step, beside whatever else this rank does; wait for it first."""
        seconds = self._trainer().run.cluster.step_seconds
        return self._saver().write(directory, step, seconds)

    def move(self, transfer: Transfer) -> Moved:
        """Do this process's part of a resize; its new share then waits beside the one in use.

        The old share stays as it is. Where it fails, the rank has left its epoch.
        """
        with self._working, self._in_groups(f"resize {transfer.place.name}"):
            share = None if isinstance(self._state, Empty) else self._state.share
            return self._staging.make(share, transfer)

    def become(self) -> None:
        """Leave the epoch and take the new share of a resize; what was before is kept."""
        self.abort()
        staged = self._staging.take(self._state)
        self._state = Built(staged, self._state.epoch, self._last_saver())
        self._follow(staged)

    def revert(self) -> None:
        """Leave the epoch and be as before a resize, as far as that had come."""
        self.abort()
        before = self._staging.back()
        if before is not None:
            self._state = before
        if isinstance(self._state, Built):
            self._follow(self._state.share)

    def forget(self) -> None:
        """Drop every share of a resize but the one in use, which goes on.

        What it held is free at once: parts of a share hold each other, and a GPU has no collector.
        """
        self._staging.drop()
        gc.collect()

    def follow(self, plan: Plan) -> None:
        """Be of a plan: as before a resize, if this rank has become of another; drop the rest.

        To be told to ranks whose driver died, by the one that takes over and knows which holds.
        """
        if self._staging.between and not self._of(plan):
            self.revert()
        else:
            self.forget()

    def _of(self, plan: Plan) -> bool:
        return not isinstance(self._state, Empty) and self._state.share.command.plan == plan

    def copy(self, step: int) -> None:
        """Copy what this rank alone holds after ``step`` steps, for the case that it is lost.

        To be told to all ranks of the run, once all have answered the exchange before.
        """
        trainer, peers = self._trainer(), self._peers()
        self._check_step(step, "a copy")
        seconds = trainer.run.cluster.step_seconds
        with conclusive(self._doing("taking a copy")):
            peers.take(step, trainer.holdings, trainer.balancer.states, seconds)

    def exchange_copies(self, step: int, holders: Mapping[Seat, Seat]) -> CopyReport:
        """Give the copy of a step to its holder and take the one that this rank holds.

        Runs beside the next steps, and waits for the copy to be taken. To be told to all ranks of
        the run; where one answers, all have what they hold. A rank that fails leaves the epoch.
        """
        seconds, peers, epoch = self._trainer().run.cluster.step_seconds, self._peers(), self._epoch
        leave = partial(self._leave, epoch)
        doing = self._doing(f"the exchange of copies of step {step}")
        with peers.travelling(step), guarded(doing, leave):
            POINTS.reach("copy", step)
            return peers.exchange(step, holders, seconds)

    def recover(self, recovery: Recovery) -> None:
        """Go back to a boundary, in a new epoch, with all other ranks of the run.

        A rank that lost what it held receives its copy from the holder. The others go back to their
        own, unless they stand at the boundary unharmed. Then every rank has a copy of its own of
        the boundary.
        """
        share, trainer, peers = self._share(), self._trainer(), self._peers()
        seconds, step = trainer.run.cluster.step_seconds, recovery.step
        with self._communicating(f"the recovery of the boundary after {step} steps"):
            harmed = trainer.torn or trainer.steps_done != step

            def stand() -> None:
                if harmed or share.command.seat in recovery.gives:
                    trainer.go_back(step, *peers.contents(step, trainer.holdings))
                else:
                    peers.take(step, trainer.holdings, trainer.balancer.states, seconds)

            peers.deliver(recovery, seconds, stand)
            share.report = None
            trainer.spread()
            if recovery.gives:
                peers.keep(step)

    def answer_as(self, how: Answering) -> Answerable:
        """Make ready to answer: pack the weights, take the memory of keys and values.

        A rank that trains answers with the weights as they are, and refuses with LaunchError where
        it has no memory left for keys and values.
        """
        share = self._share()
        with conclusive(self._doing("making ready to answer")):
            if share.trainer is not None and not share.generator.ready(how):
                share.generator.release()
                check_room(self.number, share, how)
            return share.generator.prepare(how)

    def answer_no_more(self) -> None:
        """Give back the memory of keys and values."""
        self._share().generator.release()

    def infer(self, batch: Batch) -> BatchOutput | None:
        """Run a batch of sequences; the leader of the head's gang returns what was drawn.

        A rank that trains refuses a batch for another step than the one that it stands at.
        """
        share = self._share()
        if share.trainer is not None:
            self._check_step(batch.step, f"batch {batch.number}")
            if share.trainer.torn:
                raise RankLost(f"rank {self.number} has weights of two steps; it must recover")
        with self._communicating(f"batch {batch.number}"):
            return share.generator.infer(batch)

    def adopt(self, source: AdapterSource) -> None:
        """Take up an adapter, beside the batches that run."""
        with conclusive(self._doing("taking up an adapter")):
            self._share().generator.adopt(source)

    def drop(self, adapter: int) -> None:
        """Forget an adapter, after the batches that were told before."""
        self._share().generator.drop(adapter)

    def expert_loads(self) -> Mapping[int, tuple[int, ...]]:
        """Return the rows that each expert was chosen for by layer, since the last time."""
        return self._share().generator.expert_loads()

    def fetch_experts(self, plan: Plan, source: Source) -> None:
        """Make the experts that this rank has in another plan, beside the batches that run."""
        with conclusive(self._doing("reading experts")):
            self._share().fetch_experts(plan, source)

    def place_experts(self) -> None:
        """Take the experts that were made, after the batches that were told before."""
        self._share().place_experts()

    def _hold_back(self) -> None:
        """Let the device change nothing more before its copies of that are made."""
        self._saver().buffers.hold_back()
        self._peers().hold_back()

    def _check_step(self, step: int | None, what: str) -> None:
        done = self._trainer().steps_done
        if done != step:
            raise RankLost(
                f"rank {self.number} has done {done} steps, {what} after {step} was asked for; the "
                "driver and the rank no longer agree"
            )
