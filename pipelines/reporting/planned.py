"""What the planner predicts of a run: its plan and the simulated step, from its newest checkpoint.

A checkpoint holds the plan, the run and the architecture. What devices there were it does not hold,
but the plan has their kinds and threads and, where the planner made it, the seconds of each stage,
to which the simulated step is scaled. Bytes do not depend on speeds.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from moe.config.model import ModelConfig
from moe.config.run import RunConfig, parse_run
from moe.errors import RaymoeError
from moe.planning.devices.inventory import CPU, Device, Inventory
from moe.planning.plan.plan import Plan
from moe.planning.prediction.predict import Prediction
from moe.planning.stages.gang import StageCost
from pipelines.reporting.recorded import Recorded

_NO_RESERVATION_BYTES = 2**50
"""Stands for the memory of a device of which a plan says nothing."""


@dataclass(frozen=True, slots=True)
class Planned:
    """``checkpoint`` is where all this was read. ``prediction`` is None where none can be made, and
    ``why_not`` then says why. ``scaled``: seconds are those of the plan, not counted ones.
    """

    checkpoint: Path
    run: RunConfig
    config: ModelConfig
    plan: Plan
    inventory: Inventory
    prediction: Prediction | None
    scaled: bool = False
    why_not: str = ""

    @property
    def predicted_bytes(self) -> tuple[int, ...]:
        """Bytes that each rank of all replicas needs at its peak; empty without a prediction."""
        if self.prediction is None:
            return ()
        return tuple(each.total for each in self.prediction.rank_bytes) * self.plan.replicas


def plan_of(run: Recorded) -> Planned | str:
    """Return the plan of the newest checkpoint of a run, or a sentence that says why nothing."""
    from moe.checkpoint.manifest import checkpoints

    saved = checkpoints(run.directory)
    if not saved:
        return (
            "No checkpoint lies beside the journal, so plan, model and settings are not known: "
            "checkpoint.every writes one every so many steps, and every run ends with one. Those "
            "in another place (checkpoint.storage) are not read."
        )
    try:
        return _read(saved[-1], copies=run.copies > 0)
    except (RaymoeError, OSError) as error:
        return f"The plan of {saved[-1].name} cannot be read: {error}"


def _read(checkpoint: Path, copies: bool) -> Planned:
    """Read the plan; memory holds copies of ranks only in a run that made some."""
    from moe.checkpoint.architecture import read_architecture
    from moe.config.json_file import read_json
    from moe.planning.plan.file import load_plan

    run = parse_run(read_json(checkpoint / "run.json"), str(checkpoint / "run.json"))
    config = read_architecture(checkpoint).config
    plan = load_plan(checkpoint / "plan.toml")
    found = Planned(checkpoint, run, config, plan, _devices(plan), None)
    length = _sequence_length(run)
    if length is None:
        return replace(
            found,
            why_not=f"The token shards {run.data.path} are gone, so the length of a sequence is "
            "not known and nothing is predicted: data.sequence_length in the run file says it.",
        )
    try:
        return _predicted(found, length, copies)
    except RaymoeError as error:
        return replace(found, why_not=f"Nothing is predicted: {error}.")


def _predicted(found: Planned, sequence_length: int, copies: bool) -> Planned:
    from moe.planning.prediction.predict import predict
    from pipelines.planning.run_work import workload

    work = workload(found.run, sequence_length, found.inventory, found.plan.replicas)
    work = replace(work, copies=work.copies and copies)
    counted = predict(found.config, found.plan, found.inventory, work)
    seconds = [stage.seconds for stage in found.plan.stages]
    if not all(seconds):
        return replace(found, prediction=counted)
    pairs = zip(counted.stages, seconds, strict=True)
    stages = tuple(_scaled(stage, wanted / stage.seconds) for stage, wanted in pairs)
    return replace(found, prediction=replace(counted, stages=stages), scaled=True)


def _scaled(stage: StageCost, factor: float) -> StageCost:
    spans = tuple((one * factor, other * factor) for one, other in stage.spans)
    return replace(
        stage,
        forward=stage.forward * factor,
        backward=stage.backward * factor,
        update=stage.update * factor,
        spans=spans,
    )


def _devices(plan: Plan) -> Inventory:
    """Return the devices of a plan, each with what its rank reserves.

    The name of a device is its node and, behind a slash, which it is there.
    """
    devices: dict[str, Device] = {}
    for stage in plan.stages:
        for rank in stage.ranks:
            for name in rank.devices:
                node = name.rpartition("/")[0] or name
                room = rank.memory_bytes if rank.kind == CPU else 0
                size = room or _NO_RESERVATION_BYTES
                devices[name] = Device(name, node, rank.kind, size, rank.threads)
    return Inventory(tuple(devices.values()))


def _sequence_length(run: RunConfig) -> int | None:
    from pipelines.corpus.manifest import read_manifest

    if run.data.sequence_length is not None:
        return run.data.sequence_length
    try:
        return read_manifest(run.data.path).sequence_length
    except (RaymoeError, OSError):
        return None
