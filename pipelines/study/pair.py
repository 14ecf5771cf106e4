"""Two pipeline stages in two processes of one thread on this machine: planned, predicted, timed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from actors.crew.over_pipes import PipeCrew
from actors.engine.training import TrainingEngine
from actors.profiling.machine import measure
from actors.profiling.measure import Measuring
from actors.profiling.messages import link_of
from actors.profiling.profile import profile_of
from actors.state.sources import ModelSource
from moe.config.model import ModelConfig
from moe.config.run import RunConfig, parse_run
from moe.planning.devices.inventory import CPU, Device, Inventory
from moe.planning.plan.plan import Plan
from moe.planning.prediction.predict import predict
from moe.planning.search.make import even_layers, make_plan
from pipelines.corpus.shards import TokenShards
from pipelines.planning.run_work import workload
from pipelines.training.batches import batches

PROFILE_SECONDS = 1.0
"""For each part of the model that is measured before a plan is made."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Median seconds of a step, as predicted and as measured, and the losses of its steps."""

    layers: tuple[int, ...]
    recomputed: int
    predicted: float
    measured: float
    losses: tuple[float, ...]


class Pair:
    """Two processes and a model; plans for them come from a profile that is measured first."""

    def __init__(self, model: Path, config: ModelConfig, data: Path, steps: int, micro: int):
        self._run = _run_file(model, data, steps, micro)
        self._config = config
        self._shards = TokenShards.open(data, "train")
        self._there = _machine(config, self._shards.sequence_length)
        self._wanted = workload(self._run, self._shards.sequence_length, self._there)

    @property
    def planned(self) -> Plan:
        """The plan of two stages that the planner makes."""
        return make_plan(self._config, self._there, 2, 1, self._wanted)

    @property
    def even(self) -> Plan:
        """The plan of two stages of as many layers each."""
        return even_layers(self.planned)

    @property
    def recomputing(self) -> Plan:
        """The even plan with every layer recomputed."""
        plan = self.even
        stages = (replace(stage, recompute=stage.layer_numbers) for stage in plan.stages)
        return replace(plan, stages=tuple(stages))

    def timed(self, plans: Sequence[Plan], turns: int) -> list[Timing]:
        """Train under each plan in turns, each turn from the start; the first step of a turn warms
        up and does not count.
        """
        seconds: list[list[float]] = [[] for _ in plans]
        losses: list[tuple[float, ...]] = [() for _ in plans]
        for _ in range(turns):
            for number, plan in enumerate(plans):
                took, losses[number] = self._trained(plan)
                seconds[number] += took[1:]
        return [
            Timing(
                tuple(len(stage.layer_numbers) for stage in plan.stages),
                sum(len(stage.recompute) for stage in plan.stages),
                predict(self._config, plan, self._there, self._wanted).step_seconds,
                median(took),
                lost,
            )
            for plan, took, lost in zip(plans, seconds, losses, strict=True)
        ]

    def _trained(self, plan: Plan) -> tuple[list[float], tuple[float, ...]]:
        crew = PipeCrew.start(plan.seats)
        try:
            length = self._shards.sequence_length
            source = ModelSource(self._run.model.path.absolute())
            engine = TrainingEngine.train(crew, self._run, plan, source, length)
            reports = [engine.train_step(batch) for batch in batches(self._run, self._shards, 0)]
        finally:
            crew.end()
        return [each.seconds for each in reports], tuple(each.loss for each in reports)


def _machine(config: ModelConfig, length: int) -> Inventory:
    """Return two devices of one thread, with the speed that this machine has at this model."""
    asked = Measuring(config, length, (1,), ranks=2, threads=1, seconds=PROFILE_SECONDS)
    found = measure(asked)
    memory = psutil.virtual_memory().available // 2
    devices = tuple(Device(f"here/{n}", "here", CPU, memory) for n in range(2))
    wires = [each.wire for each in found if each.wire is not None]
    return Inventory(devices).measured((profile_of(asked, found, "here"),), (link_of(wires),))


def _run_file(model: Path, data: Path, steps: int, micro: int) -> RunConfig:
    table: dict[str, Any] = {
        "name": "pair",
        "model": {"path": str(model)},
        "data": {"path": str(data)},
        "train": {"steps": steps, "global_batch": micro, "learning_rate": 1e-4},
        "checkpoint": {"path": "unused"},
        "elastic": {"copy_every": 0},
    }
    return parse_run(table, "the pair of stages")
