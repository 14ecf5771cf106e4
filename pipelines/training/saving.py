"""Checkpoints of a run: snapshots between two steps, completed during the following steps.

The driver has every rank take a snapshot and write it beside the next steps, and then makes a
checkpoint from the files. It reports to Ray Train where the newest complete checkpoint is.
"""

import json
import logging
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import ray.train
from ray.train import Checkpoint

from actors.commands import StepReport
from actors.engine.training import TrainingEngine
from actors.state.checkpointing import PendingWrites
from moe.checkpoint.drafts import drafted, prune
from moe.checkpoint.manifest import checkpoints, step_directory
from moe.checkpoint.training import About, SaveContext, complete
from moe.config.run import CheckpointSection
from moe.errors import StorageError
from moe.planning.plan.file import to_dict
from moe.storage import Location, remedy

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Saved:
    """A complete checkpoint: its step, its location, its cost in seconds.

    ``stall_seconds`` is the time that training waited, for the snapshot and for the completion
    between two steps; ``seconds`` is the total time until the checkpoint was complete.
    """

    step: int
    directory: str
    stall_seconds: float
    seconds: float


@dataclass(slots=True)
class _Pending:
    """A checkpoint in progress: the writes of the ranks, its draft and final locations, its
    start.
    """

    step: int
    writing: PendingWrites
    draft: Location
    location: Location
    scope: ExitStack
    began: float
    stall_seconds: float


class CheckpointSaver(AbstractContextManager["CheckpointSaver"]):
    """Saves the checkpoints of a run, one at a time, while training continues."""

    def __init__(
        self,
        engine: TrainingEngine,
        context: SaveContext,
        record: Callable[[Saved], None] = lambda saved: None,
    ) -> None:
        self._engine = engine
        self._context = context
        self._record = record
        self._pending: _Pending | None = None
        self._newest: Saved | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        """Remove an incomplete checkpoint."""
        if self._pending is not None:
            self._pending.scope.__exit__(*error)

    def take(self, step: int) -> None:
        """Take a snapshot of all ranks after a step, and start to write it.

        Waits until the previous checkpoint is written. Does nothing where the step is done again
        after a loss and its checkpoint is there: it holds the same numbers.
        """
        self._finish()
        if self.has(step):
            return
        began = time.monotonic()
        self._engine.snapshot(step)
        stall = time.monotonic() - began
        run = self._context.run
        scope, location = ExitStack(), step_directory(run.checkpoint.location, step)
        draft = scope.enter_context(drafted(location))
        writing = self._engine.write(draft, step)
        self._pending = _Pending(step, writing, draft, location, scope, began, stall)

    def has(self, step: int) -> bool:
        """Tell whether the checkpoint of a step is there, whole."""
        location = self._context.run.checkpoint.location
        name = step_directory(location, step).name
        return any(saved.name == name for saved in checkpoints(location))

    def tell(self, report: StepReport) -> None:
        """Complete a checkpoint whose files are written; report an earlier one to Ray Train."""
        if self._pending is not None and self._pending.writing.done():
            self._finish()
        if self._newest is not None:
            metrics = {"step": report.step, "loss": report.loss, "drop_rate": report.drop_rate}
            tell(metrics, self._newest)
            self._newest = None

    def finish(self) -> None:
        """Wait for the last checkpoint and report it."""
        self._finish()
        if self._newest is not None:
            tell({}, self._newest)
            self._newest = None

    def _finish(self) -> None:
        """Make a checkpoint from the files of the ranks, and remove old checkpoints."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        waited = time.monotonic()
        try:
            with pending.scope:
                written = pending.writing.result()
                about = About(self._context, to_dict(self._engine.plan), pending.step)
                complete(pending.draft, about, written)
        except OSError as error:
            raise StorageError(
                f"could not complete {pending.location}: {error}; {remedy(error)}"
            ) from error
        now = time.monotonic()
        stall, seconds = pending.stall_seconds + now - waited, now - pending.began
        self._newest = Saved(pending.step, str(pending.location), stall, seconds)
        self._record(self._newest)
        self._prune(self._context.run.checkpoint)

    def _prune(self, checkpoint: CheckpointSection) -> None:
        """Remove old checkpoints; a checkpoint that cannot be removed is tried again next time."""
        try:
            prune(checkpoint.location, checkpoint.keep)
        except (OSError, StorageError) as error:
            logger.warning(
                "old checkpoints in %s could not be removed yet: %s", checkpoint.location, error
            )


def tell(metrics: dict[str, Any], whole: Saved | None) -> None:
    """Report to Ray Train, as all workers do together, where a checkpoint is, if this one knows."""
    if whole is None:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as pointer:
        place = {"step": whole.step, "directory": whole.directory}
        (Path(pointer) / "checkpoint.json").write_text(json.dumps(place), encoding="utf-8")
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(pointer))
