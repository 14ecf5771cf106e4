"""Runs over pipes that are hurt and heal, without Ray: commanded as the driver of a run does."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from actors.commands import StepInput
from actors.engine.healing import Healed, Making, Surroundings
from actors.engine.resizing import Resized, Unchanged
from actors.engine.training import TrainingEngine
from actors.faults.armed import NO_FAULTS, FaultPlan
from actors.state.sources import Blank
from actors.state.tuned import source_of
from moe.checkpoint.reader import Checkpoint
from moe.config.model import ModelConfig
from moe.config.run import RunConfig
from moe.config.run.elastic import Shrink
from moe.errors import DeadlineExceeded, RankLost
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat
from tests import runs
from tests.ranks import PooledCrew, Ranks

STEPS = 5


@dataclass
class HealedRun:
    """The engine of a run, the loss of each step, and what was healed."""

    crew: PooledCrew
    engine: TrainingEngine
    run: RunConfig
    losses: dict[int, float] = field(default_factory=dict)
    healed: list[Healed] = field(default_factory=list)
    resized: list[Resized | Unchanged] = field(default_factory=list)
    began: list[int] = field(default_factory=list)
    smaller: Callable[[Shrink, frozenset[Seat]], Plan | None] = lambda _, __: None
    batch: Callable[[ModelConfig, RunConfig, int], StepInput] = runs.batch

    @classmethod
    def begun(
        cls, ranks: Ranks, plan: Plan, run: RunConfig, faults: FaultPlan = NO_FAULTS
    ) -> "HealedRun":
        crew, source = ranks.crew(plan.seats), source_of(run, None)
        making = Making(run, Blank.of(source), runs.LENGTH, faults)
        made = cls(crew, TrainingEngine.begin(crew, plan, source, making), run)
        made.began = made.pids()
        return made

    def go(self, strike: "Strike", until: int = STEPS) -> "HealedRun":
        """Train; ``strike`` is called before every step and may do harm."""
        config = Checkpoint.open(self.run.model.path).config
        step = self.engine.steps_done()
        while step < until:
            try:
                self.engine.copying.after(step, 0.1)
                strike(self, step)
                report = self.engine.train_step(self.batch(config, self.run, step))
                self.losses[step], step = report.loss, report.step
            except (RankLost, DeadlineExceeded):
                step = self.mend()
        return self

    def mend(self) -> int:
        """Recover, also from what goes wrong meanwhile; return the boundary."""
        while True:
            try:
                found = self.engine.recover(Surroundings(0, 1, smaller=self.smaller))
            except (RankLost, DeadlineExceeded):
                continue
            if isinstance(found, Resized):
                self.resized.append(found)
            else:
                assert isinstance(found, Healed), found
                self.healed.append(found)
            return found.step

    def wish(self, plan: Plan) -> None:
        """Change to another plan now; where that fails, the ranks recover under the old one."""
        done = self.engine.consider(Surroundings(0, 1, wish=plan))
        assert isinstance(done, Resized | Unchanged)
        self.resized.append(done)
        if isinstance(done, Unchanged) and done.disturbed:
            raise RankLost(done.reason)

    def pids(self) -> list[int]:
        return [status.pid for status in self.engine.status()]

    def tensors(self) -> list[torch.Tensor]:
        """Return everything that the ranks hold, in their order."""
        found = []
        crew = self.engine.crew
        for seat in crew.seats:
            held = crew.tell(seat, "held").result(60)
            found += [value for _, value in held.weights]
            for _, _, moments in held.owned:
                found += [value for name, value in moments.items() if name != "gradient"]
        return found


Strike = Callable[[HealedRun, int], None]


def unharmed(_: HealedRun, __: int) -> None:
    """Do no harm."""


def at(step: int, harm: Callable[[HealedRun], None]) -> Strike:
    """Return a strike that does its harm once, before a step."""
    done: list[int] = []

    def strike(run: HealedRun, now: int) -> None:
        if now == step and not done:
            done.append(now)
            harm(run)

    return strike


def signalled(number: signal.Signals, *ranks: int) -> Callable[[HealedRun], None]:
    """Return the harm of a signal to the processes of some ranks."""

    def harm(run: HealedRun) -> None:
        pids = run.pids()
        for rank in ranks:
            os.kill(pids[rank], number)

    return harm
