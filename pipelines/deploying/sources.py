"""What a run only names, found here: the sizes of its model, its sequences, its plan."""

from dataclasses import dataclass, replace
from pathlib import Path

from actors.step.replicas import check_step
from moe.config.model import ModelConfig
from moe.config.run import RunConfig
from moe.errors import ConfigError, PlanError
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import CPU, Inventory
from moe.planning.plan.file import load_plan
from moe.planning.plan.plan import Plan
from moe.planning.search.make import make_replicas
from moe.planning.search.pins import Pins
from pipelines.corpus.manifest import read_manifest
from pipelines.planning.architecture import architecture_of

_CONFIG = "config.json"


@dataclass(frozen=True, slots=True)
class Sources:
    """Where to look: a model directory, its config.json or a preset; a plan file; devices.

    What is not given is looked for where the run file says it is.
    """

    model: str | None = None
    plan: Path | None = None
    devices: Inventory | None = None

    def config(self, run: RunConfig) -> ModelConfig:
        """Return the sizes of the run's model; no weights are read."""
        if self.model is not None:
            path = Path(self.model)
            return architecture_of(str(path.parent) if path.name == _CONFIG else self.model).config
        if not run.model.path.is_dir():
            raise ConfigError(
                f"model.path of the run is {run.model.path}, which is not here; give --model: a "
                "directory with its config.json, or a preset"
            )
        return architecture_of(str(run.model.path)).config

    def training_plan(self, run: RunConfig, config: ModelConfig, length: int) -> Plan:
        """Return the plan that the run trains under: its file, or one made for the devices."""
        plan = self._given(run, config)
        if plan is None:
            shape = run.plan
            pins = Pins(stages=shape.stages, gang=shape.gang, replicas=shape.replicas)
            there = self._devices(run)
            work = training_work(run, length, shape.replicas, gpus=not there.of_cpus)
            ranks = shape.stages * shape.gang * shape.replicas
            work = replace(work, copies=run.elastic.copies and ranks > 1)
            plan = make_replicas(config, there, pins, work, shape.chunks)
        check_step(plan, run.train.schedule, run.train.micro_batches)
        return plan

    def serving_plan(self, run: RunConfig, config: ModelConfig, work: Workload) -> Plan:
        """Return the plan of a server: one replica of the plan file, or of one made for it."""
        plan = self._given(run, config)
        if plan is None:
            there = self._devices(run)
            pins = Pins(stages=run.plan.stages, gang=run.plan.gang)
            return make_replicas(config, there, pins, replace(work, gpus=not there.of_cpus))
        if plan.chunks > 1:
            raise PlanError(
                f"the plan has {plan.chunks} spans of layers a stage, so it is for training and "
                "cannot become a RayService; give --plan with another, or --inventory to make one"
            )
        return plan.of_replicas(1)

    def _given(self, run: RunConfig, config: ModelConfig) -> Plan | None:
        path = self.plan or run.plan.path
        if path is None:
            return None
        if self.devices is not None:
            raise ConfigError(
                f"the plan is {path}, so no plan is made for devices; leave out --inventory and "
                "--nodes, or give the run a shape (stages, gang, replicas) in place of a plan"
            )
        if not path.is_file():
            raise ConfigError(f"the plan of the run is {path}, which is not here; give --plan FILE")
        plan = load_plan(path)
        plan.check_model(config)
        return plan

    def _devices(self, run: RunConfig) -> Inventory:
        if self.devices is None:
            raise ConfigError(
                f"{run.name} has no plan yet; give --plan FILE, or --inventory or --nodes with the "
                "devices to make one for"
            )
        return self.devices


def sequence_length(run: RunConfig) -> int:
    """Return the tokens of a sequence, from the run file or the token shards."""
    if run.data.sequence_length is not None:
        return run.data.sequence_length
    if not run.data.path.is_dir():
        raise ConfigError(
            f"data.path of the run is {run.data.path}, which is not here, so nothing says how long "
            "sequences are; add sequence_length to [data] of the run file"
        )
    return read_manifest(run.data.path).sequence_length


def training_work(run: RunConfig, length: int, replicas: int, gpus: bool) -> Workload:
    """Return the workload of a step on the replica with the most micro-batches."""
    return Workload.of_run(run.train, length, -(-run.train.micro_batches // replicas), gpus)


def on_gpus(plan: Plan) -> bool:
    """Return whether the ranks of a plan compute on GPUs."""
    return plan.stages[0].ranks[0].kind != CPU
