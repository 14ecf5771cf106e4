"""Checkpoints of a run, taken between two steps and finished beside those that follow.

Every driver takes snapshots of its replica after the same steps. The leader's has all ranks write
them and, when they have, makes a checkpoint of the files. Ray Train is told a step later by all
drivers together, as it asks; the checkpoint it is given is a pointer to the newest that is whole.
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
from moe.checkpoint.manifest import step_directory
from moe.checkpoint.training import About, SaveContext, complete
from moe.config.run import CheckpointSection
from moe.errors import StorageError
from moe.planning.plan.file import to_dict
from moe.storage import Location, remedy

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint that is whole: its step, where it lies, what it cost.

    ``stall_seconds`` is what training waited for its snapshot, and for its completion between two
    steps; ``seconds`` is all of it, until it was whole.
    """

    step: int
    directory: str
    stall_seconds: float
    seconds: float


@dataclass(slots=True)
class _Pending:
    """A checkpoint under way: what ranks write, where, where it will be, and since when."""

    step: int
    writing: PendingWrites
    draft: Location
    location: Location
    scope: ExitStack
    began: float
    stall_seconds: float


class CheckpointSaver(AbstractContextManager["CheckpointSaver"]):
    """Saves for the leader of a run; without a context, takes part for another driver."""

    def __init__(
        self,
        engine: TrainingEngine,
        context: SaveContext | None,
        record: Callable[[Saved], None] = lambda saved: None,
    ) -> None:
        self._engine = engine
        self._context = context
        self._record = record
        self._pending: _Pending | None = None
        self._untold = 0
        self._newest: Saved | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        """Remove what is not whole."""
        if self._pending is not None:
            self._pending.scope.__exit__(*error)

    def take(self, step: int, driver: TrainingEngine) -> None:
        """Take a snapshot of the driver's ranks after a step, and have it written.

        All drivers wait until the checkpoint before is written: ranks of one that went on would
        wait in the next step for those of the leader.
        """
        if self._context is None:
            self._engine.written_before(step)
        self._finish()
        began = time.monotonic()
        driver.snapshot(step)
        stall = time.monotonic() - began
        self._untold += 1
        if self._context is None:
            return
        run = self._context.run
        scope, location = ExitStack(), step_directory(run.checkpoint.location, step)
        draft = scope.enter_context(drafted(location))
        writing = self._engine.write(draft, step)
        self._pending = _Pending(step, writing, draft, location, scope, began, stall)

    def tell(self, report: StepReport) -> None:
        """Look whether a checkpoint has become whole; tell Ray Train of one taken before."""
        if self._pending is not None and self._pending.writing.done():
            self._finish()
        if self._untold:
            self._untold -= 1
            metrics = {"step": report.step, "loss": report.loss, "drop_rate": report.drop_rate}
            _tell(metrics, self._newest)
            self._newest = None

    def finish(self) -> None:
        """Wait for the last checkpoint, and tell of it."""
        self._finish()
        if self._untold:
            self._untold -= 1
            _tell({}, self._newest)

    def _finish(self) -> None:
        """Make a checkpoint of what ranks have written, and remove old ones."""
        pending, self._pending = self._pending, None
        if pending is None or self._context is None:
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
        """Remove old checkpoints; those that will not go are tried again after the next."""
        try:
            prune(checkpoint.location, checkpoint.keep)
        except (OSError, StorageError) as error:
            logger.warning("old checkpoints in %s stay for now: %s", checkpoint.location, error)


def _tell(metrics: dict[str, Any], whole: Saved | None) -> None:
    """Report to Ray Train; a barrier, which every driver must come to."""
    if whole is None:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as pointer:
        place = {"step": whole.step, "directory": whole.directory}
        (Path(pointer) / "checkpoint.json").write_text(json.dumps(place), encoding="utf-8")
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(pointer))
