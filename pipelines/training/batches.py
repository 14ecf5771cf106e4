"""The batch of every step, a function of the step alone, and the steps that are saved."""

from collections.abc import Iterator

from actors.commands import StepInput
from moe.config.run import RunConfig
from pipelines.corpus.order import rows_of_step
from pipelines.corpus.shards import IGNORED, TokenShards


def batches(run: RunConfig, shards: TokenShards, first: int) -> Iterator[StepInput]:
    """Yield the global batch of every step from ``first``: a function of the step alone."""
    for step in range(first, run.train.steps):
        rows = rows_of_step(step, run.train.global_batch, run.data.seed, len(shards))
        batch = shards.batch(rows)
        count = int((batch.labels != IGNORED).sum())
        labels = batch.labels.astype("int32")
        yield StepInput(step, batch.tokens, labels, count, batch.documents)


def due(run: RunConfig, step: int) -> bool:
    """Return whether a checkpoint is due after ``step`` steps."""
    every = run.checkpoint.every
    return step == run.train.steps or (every > 0 and step % every == 0)
