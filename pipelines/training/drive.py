"""The Ray Train worker of a run: it drives the actors of all replicas and owns none of them.

It takes over the running actors in their present state, and heals them where some are lost. A
worker that was killed and restarted finds the actors as they were left, perhaps in the middle of a
step; it then commands that step again.
"""

from contextlib import closing
from functools import partial

from actors.rank.fate import share_fate
from cluster.watch import NodeWatch
from moe.checkpoint.drafts import prune
from moe.errors import (
    ClusterBusy,
    DeadlineExceeded,
    LaunchError,
    PlanError,
    RankLost,
    RaymoeError,
)
from pipelines.corpus.shards import TokenShards
from pipelines.training.board import measure, still_wanted
from pipelines.training.driver import Driver
from pipelines.training.final import Final
from pipelines.training.measuring import Measured, RunMetrics
from pipelines.training.recording import RunRecord
from pipelines.training.work import Outcome, Work


def drive(settings: dict[str, Work]) -> Outcome:
    """Train to the last step; the function that Ray Train runs in its worker."""
    share_fate()
    work = settings["work"]
    try:
        return _driven(work)
    except (RankLost, DeadlineExceeded, ClusterBusy):
        if still_wanted(work.board):
            raise
        return Outcome(step=0)
    except RaymoeError as error:
        if work.plan is None and isinstance(error, LaunchError | PlanError):
            raise  # Nodes came or went; Ray Train tries again with the present ones.
        raise Final(error) from error


def _driven(work: Work) -> Outcome:
    run = work.run
    if not still_wanted(work.board):
        return Outcome(step=0)
    prune(run.checkpoint.location, run.checkpoint.keep)
    shards = TokenShards.open(run.data.path, "train")
    against = Measured.of(run, work.context.config, shards.sequence_length)
    metrics = RunMetrics(partial(measure, work.board), against)
    with closing(RunRecord(run.checkpoint.path, metrics)) as record, closing(NodeWatch()) as watch:
        return Driver(work, shards, record, watch).run()
