"""A Ray Train worker of a run with DeepSpeed; the first one also tells of the run and saves it."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial

import ray
import torch
import torch.distributed as dist
from ray.actor import ActorHandle
from ray.train.torch import get_device

from actors.commands import StepReport
from actors.device import local_device
from actors.rank.determinism import set_deterministic
from actors.rank.fate import share_fate
from moe.checkpoint.training import SaveContext
from moe.config.run import RunConfig
from moe.errors import RaymoeError
from moe.planning.plan.plan import Plan
from pipelines.corpus.shards import TokenShards
from pipelines.training.batches import batches, due
from pipelines.training.board import Board, begin, measure, post, still_wanted
from pipelines.training.deepspeed.plan import plan_of_workers
from pipelines.training.deepspeed.saving import save
from pipelines.training.deepspeed.settings import Settings
from pipelines.training.deepspeed.trainer import DeepSpeedTrainer
from pipelines.training.final import Final
from pipelines.training.measuring import Measured, RunMetrics, with_detail
from pipelines.training.recording import RunRecord
from pipelines.training.saving import tell
from pipelines.training.timeline import Began, Scene
from pipelines.training.work import Outcome


@dataclass(frozen=True, slots=True)
class DeepSpeedWork:
    """A run for workers that train by DeepSpeed: ``plan`` says how many there are."""

    context: SaveContext
    plan: Plan
    board: ActorHandle[Board]
    settings: Settings

    @classmethod
    def of(
        cls, context: SaveContext, board: ActorHandle[Board], settings: Settings
    ) -> "DeepSpeedWork":
        """Return the work of a run."""
        plan = plan_of_workers(context.config, context.run.plan)
        run = with_detail(context.run, context.config, plan)
        return cls(replace(context, run=run), plan, board, settings)

    @property
    def run(self) -> RunConfig:
        """The run, with a decision on how much is measured."""
        return self.context.run


def drive(settings: dict[str, DeepSpeedWork]) -> Outcome:
    """Train to the last step; the function that Ray Train runs in its workers."""
    share_fate()
    try:
        return _driven(settings["work"])
    except RaymoeError as error:
        raise Final(error) from error


def _driven(work: DeepSpeedWork) -> Outcome:
    run, device = work.run, local_device(get_device().index or 0)
    device.use()
    torch.set_num_threads(run.plan.threads)
    set_deterministic(run.train.deterministic)
    shards = TokenShards.open(run.data.path, "train")
    trainer = DeepSpeedTrainer(run, work.settings.table, device)
    with _told(work, shards.sequence_length) as record:
        for batch in batches(run, shards, trainer.steps_done):
            if not _wanted(work.board):
                break
            report = trainer.step(batch)
            if record is not None:
                record.step(report)
                post(work.board, report)
            if due(run, report.step):
                _save(trainer, work, record, report)
    return Outcome(trainer.steps_done)


def _save(
    trainer: DeepSpeedTrainer, work: DeepSpeedWork, record: RunRecord | None, report: StepReport
) -> None:
    """Save, record it, and report to Ray Train, as all of its workers must."""
    saved = save(trainer, work.context, work.plan)
    if record is not None and saved is not None:
        record.checkpoint(saved)
    tell({"step": report.step, "loss": report.loss, "drop_rate": report.drop_rate}, saved)


@contextmanager
def _told(work: DeepSpeedWork, sequence_length: int) -> Iterator[RunRecord | None]:
    """Tell that training begins; yield the record of the run to the first worker, others None."""
    nodes: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(nodes, ray.get_runtime_context().get_node_id())
    if dist.get_rank():
        yield None
        return
    run = work.run
    against = Measured.of(run, work.context.config, sequence_length)
    ranks = {node: [rank for rank, own in enumerate(nodes) if own == node] for node in nodes}
    with closing(
        RunRecord(run.checkpoint.path, RunMetrics(partial(measure, work.board), against))
    ) as record:
        workers = len(nodes)
        record.began(Began(0, workers, workers, new=True), Scene(1, ranks, 0), work.plan)
        begin(work.board, work.plan, 0)
        yield record


def _wanted(board: ActorHandle[Board]) -> bool:
    """Return whether the run goes on, as the first worker finds; all workers hear the same."""
    found = [still_wanted(board) if dist.get_rank() == 0 else True]
    dist.broadcast_object_list(found, src=0)
    return found[0]
