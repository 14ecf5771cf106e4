"""What the driver tells of a run: to its journal and metrics, and to the board for the terminal."""

from collections.abc import Collection

from ray.actor import ActorHandle

from actors.commands import StepReport
from actors.engine.resizing import Resized
from actors.engine.training import TrainingEngine
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat
from pipelines.training.board import Board, begin, plan_on, post
from pipelines.training.health import HealthTimes
from pipelines.training.mended import Lost, Mended, Stays, Waiting
from pipelines.training.recording import RunRecord
from pipelines.training.rescaled import NotRescaled, Rescaled
from pipelines.training.timeline import NOBODY, Began, Scene


class News:
    """Tells what becomes of a run: losses and how they are mended, plans and how they change."""

    def __init__(self, board: ActorHandle[Board], record: RunRecord) -> None:
        self._board = board
        self._record = record
        self._plan: Plan | None = None
        self._new = plan_on(board) is None
        self._waiting: str | None = None
        self._staying = set[Seat]()
        self._health = HealthTimes()

    def trains(self, engine: TrainingEngine, done: int) -> None:
        """Tell under which plan the ranks train from now on, where that is new."""
        if engine.plan != self._plan:
            begin(self._board, engine.plan, done)
            self._note(engine, done)

    def step(self, report: StepReport, spares: int) -> None:
        """Tell of a step; now and then, and after everything that happens, how the run stands."""
        self._record.step(report)
        self._record.spares(spares)
        post(self._board, report)
        if self._health.due():
            post(self._board, self._record.health(report.step, spares))

    def lost(self, lost: Lost, engine: TrainingEngine | None) -> None:
        """Tell of a loss."""
        self._record.loss(lost, NOBODY if engine is None else _scene(engine))
        post(self._board, lost)

    def waits(self, reason: str, engine: TrainingEngine) -> None:
        """Tell, once, that there is nothing to do but wait."""
        self._waits(reason, _scene(engine))

    def awaits(self, reason: str) -> None:
        """Tell, once, for what the ranks wait that are not started yet."""
        self._waits(reason, NOBODY)

    def _waits(self, reason: str, scene: Scene) -> None:
        if reason != self._waiting:
            self._waiting, told = reason, Waiting(reason)
            self._record.loss(told, scene)
            post(self._board, told)

    def stays(self, told: Stays, leaving: Collection[Seat], engine: TrainingEngine) -> None:
        """Tell, once for the same ranks, why those of a node that goes stay there."""
        if {*leaving} != self._staying:
            self._staying = {*leaving}
            self._record.stays(told, _scene(engine))
            post(self._board, told)

    def mended(self, mended: Mended, engine: TrainingEngine) -> None:
        """Tell how a loss was mended."""
        self._waiting = None
        self._health.happened()
        self._record.loss(mended, _scene(engine))
        post(self._board, mended)

    def unchanged(self, told: NotRescaled, engine: TrainingEngine) -> NotRescaled:
        """Tell why the plan is not changed."""
        self._record.resized(told, _scene(engine))
        post(self._board, told)
        return told

    def resized(self, resized: Resized, engine: TrainingEngine) -> Rescaled:
        """Tell of another plan, under which training goes on, with copies that are whole."""
        told = Rescaled.of(resized)
        self._health.happened()
        self._record.resized(told, _scene(engine))
        post(self._board, told)
        self._note(engine, resized.step)
        copied = engine.copying.newest
        if copied is not None:
            self._record.copied(copied)
        return told

    def _note(self, engine: TrainingEngine, done: int) -> None:
        plan = engine.plan
        taken_over = self._plan is None and not self._new
        began = Began(done, plan.replicas, plan.replicas * plan.ranks, self._new, taken_over)
        self._record.began(began, _scene(engine), plan)
        self._plan, self._new = plan, False


def _scene(engine: TrainingEngine) -> Scene:
    """Return who trains now, and where."""
    ranks: dict[str, list[int]] = {}
    for seat, node in engine.nodes.items():
        ranks.setdefault(node, []).append(engine.plan.seats.rank(seat))
    return Scene(engine.epoch, ranks, engine.spares)
