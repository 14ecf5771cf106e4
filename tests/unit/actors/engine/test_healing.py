"""Ranks that are lost, in every part of a run: the others stay, and every number is as undisturbed.

Real ranks in processes of their own; the engine heals them as in a run, without Ray.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.engine.healing import Healed, Surroundings
from actors.engine.training import TrainingEngine
from actors.state.sources import ModelSource
from moe.checkpoint.reader import Checkpoint
from moe.config.run import RunConfig
from moe.errors import DeadlineExceeded, RankLost
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat
from moe.planning.policy.decision import Restore
from tests import runs, tiny
from tests.ranks import PooledCrew, Ranks, single_threaded

STEPS = 5
Strike = Callable[["Trained", int], None]


@dataclass
class Trained:
    """A run over pipes: its engine, its losses, and what was healed."""

    crew: PooledCrew
    engine: TrainingEngine
    run: RunConfig
    losses: dict[int, float] = field(default_factory=dict)
    healed: list[Healed] = field(default_factory=list)

    def go(self, strike: Strike) -> None:
        """Train to the end as the driver of a run does; ``strike`` comes before every step."""
        config = Checkpoint.open(self.run.model.path).config
        step = self.engine.steps_done()
        while step < STEPS:
            try:
                self.engine.copying.after(step, 0.1)
                strike(self, step)
                report = self.engine.train_step(runs.batch(config, self.run, step))
                self.losses[step], step = report.loss, report.step
            except (RankLost, DeadlineExceeded):
                step = self.mend()

    def mend(self) -> int:
        """Recover; what goes wrong meanwhile is recovered from too."""
        while True:
            try:
                found = self.engine.recover(Surroundings(0, 1))
            except (RankLost, DeadlineExceeded):
                continue
            assert isinstance(found, Healed), found
            self.healed.append(found)
            return found.step

    def pids(self) -> list[int]:
        return [status.pid for status in self.engine.status()]

    def weights(self) -> list[torch.Tensor]:
        """Return everything that the ranks hold, in their order."""
        found = []
        for seat in self.crew.seats:
            held = self.crew.tell(seat, "held").result(60)
            found += [value for _, value in held.weights]
            found += [
                value
                for _, _, moments in held.owned
                for name, value in moments.items()
                if name != "gradient"
            ]
        return found


def trained(ranks: Ranks, plan: Plan, run: RunConfig, strike: Strike) -> Trained:
    """Train a plan to the end."""
    crew = ranks.crew(plan.seats)
    engine = TrainingEngine.train(crew, run, plan, ModelSource(run.model.path), runs.LENGTH)
    made = Trained(crew, engine, run)
    made.go(strike)
    return made


def nothing(_: Trained, __: int) -> None:
    """No harm is done."""


def at(step: int, harm: Callable[[Trained], None]) -> Strike:
    """Return a strike that happens once, before a step."""
    done: list[int] = []

    def strike(made: Trained, now: int) -> None:
        if now == step and not done:
            done.append(now)
            harm(made)

    return strike


def send(number: int, *ranks: int) -> Callable[[Trained], None]:
    """Return the harm of a signal to some ranks."""

    def harm(made: Trained) -> None:
        pids = made.pids()
        for rank in ranks:
            os.kill(pids[rank], number)

    return harm


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.saved(tiny.mixtral(), tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def bias(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DeepSeekMoE shape: fine-grained and shared experts."""
    return tiny.saved(tiny.deepseek(), tmp_path_factory.mktemp("model") / "deepseek")


def run_of(model: Path, **sections: dict[str, object]) -> RunConfig:
    elastic = {"copy_every": 2, "hang_seconds": 1.0, "max_failures": 99}
    given = {"elastic": elastic, "cluster": {"group_seconds": 20.0}, "train": {"steps": STEPS}}
    return runs.run_config(model, **{**given, **sections})


def plans(model: Path) -> dict[str, Plan]:
    config = Checkpoint.open(model).config
    gangs = runs.plan(config, (1, 2), (2, 1) if config.kv_heads == 3 else (1, config.kv_heads - 1),
                      (1, config.experts - 1))
    return {
        "stages": single_threaded(runs.plan(config, (1, 2))),
        "uneven": single_threaded(runs.plan(config, (1, 1, 1))),
        "replicas": single_threaded(runs.repeated(gangs, 2)),
    }
