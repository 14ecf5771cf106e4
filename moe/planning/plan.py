"""The Plan: who holds which layers, heads and experts. A value; its file form; its comparison.

Everything downstream is built from it: actors, placement, checkpoints, manifests, reports.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from moe.config.model import ModelConfig
from moe.config.share import Share
from moe.config.tensors import TensorSlice, held_by
from moe.errors import PlanError
from moe.planning import checks, tables
from moe.planning.inventory import CPU, check_one_sort

_SIZES = (
    "layers",
    "hidden_size",
    "heads",
    "kv_heads",
    "ffn_size",
    "experts",
    "shared_size",
    "vocab_size",
)


@dataclass(frozen=True, slots=True)
class RankPlan:
    """One actor: its device, by its name in the inventory, and its slice of every layer.

    ``kv_heads`` and ``ffn`` are half-open spans, ``experts`` expert numbers, ``threads`` the CPU
    threads the actor computes with. ``kind`` is the device's, ``cpu`` or a GPU model.
    """

    device: str
    kv_heads: tuple[int, int]
    ffn: tuple[int, int]
    experts: tuple[int, ...]
    threads: int = 1
    kind: str = CPU


@dataclass(frozen=True, slots=True)
class StagePlan:
    """Consecutive layers ``(start, stop)`` and the gang of ranks that holds them.

    ``seconds`` is the predicted time of one micro-batch, forward and backward; 0 if not predicted.
    """

    layers: tuple[int, int]
    ranks: tuple[RankPlan, ...]
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Move:
    """A span of a tensor that one rank of the new plan needs and did not hold under the old."""

    rank: int
    tensor: TensorSlice


@dataclass(frozen=True, slots=True)
class Plan:
    """Stages in pipeline order for one model; ``model`` repeats the sizes it was made for."""

    model: Mapping[str, int]
    stages: tuple[StagePlan, ...]

    def __post_init__(self) -> None:
        tables.check_keys("the plan's model", self.model, _SIZES)
        if not self.stages or not self.stages[0].ranks:
            raise PlanError("the plan has no stage or no rank; give it at least one of each")
        checks.check_layers([stage.layers for stage in self.stages], self.model["layers"])
        for number, stage in enumerate(self.stages):
            self._check_gang(number, stage)

    @property
    def gang_size(self) -> int:
        """Ranks of each stage."""
        return len(self.stages[0].ranks)

    @property
    def ranks(self) -> int:
        """Ranks of the whole plan; rank = stage * gang size + member."""
        return len(self.stages) * self.gang_size

    def rank(self, number: int) -> RankPlan:
        """Return one rank by its number."""
        stage, member = self._place(number)
        return self.stages[stage].ranks[member]

    def share(self, number: int) -> Share:
        """Return what rank ``number`` holds."""
        stage, member = self._place(number)
        part = self.stages[stage].ranks[member]
        return Share(
            layers=self.stages[stage].layers,
            embedding=stage == 0,
            head=stage == len(self.stages) - 1,
            kv_heads=part.kv_heads,
            ffn=part.ffn,
            experts=part.experts,
            leader=member == 0,
        )

    def check_model(self, config: ModelConfig) -> None:
        """Raise PlanError where the plan was made for a model of other sizes."""
        for key, size in config.summary().items():
            if self.model.get(key) != size:
                raise PlanError(
                    f"the plan was made for {key} = {self.model.get(key)}, the model has {size}; "
                    "make a plan for this model with `raymoe plan`"
                )

    def check_kinds(self) -> None:
        """Raise PlanError where the kinds of devices cannot work together.

        GPUs speak nccl and CPUs gloo. And every rank of a gang chooses the experts of all tokens by
        itself: unlike devices round differently, so their choices differ where two experts are
        nearly equal, and such a token would reach an expert twice or not at all.
        """
        ranks = [rank for stage in self.stages for rank in stage.ranks]
        check_one_sort("the plan", ((rank.device, rank.kind) for rank in ranks))
        for number, stage in enumerate(self.stages):
            kinds = sorted({rank.kind for rank in stage.ranks})
            if len(kinds) > 1 and self.model["experts"]:
                raise PlanError(
                    f"the gang of stage {number} has devices of kinds {', '.join(kinds)}; its "
                    "ranks route tokens to experts each by itself and must agree to the last bit, "
                    "so give every gang devices of one kind (stages may differ), or lower plan.gang"
                )

    def _place(self, number: int) -> tuple[int, int]:
        """Return the stage of a rank and its place in the gang."""
        if not 0 <= number < self.ranks:
            raise PlanError(
                f"asked for rank {number} of a plan of {self.ranks}; count ranks from 0"
            )
        return divmod(number, self.gang_size)

    def _check_gang(self, number: int, stage: StagePlan) -> None:
        if len(stage.ranks) != self.gang_size:
            raise PlanError(
                f"stage {number} has {len(stage.ranks)} ranks, stage 0 has {self.gang_size}; "
                "all gangs of a plan are of one size"
            )
        columns = [rank.ffn for rank in stage.ranks]
        heads = [rank.kv_heads for rank in stage.ranks]
        checks.check_spans(number, "kv_heads", heads, self.model["kv_heads"])
        checks.check_spans(number, "ffn", columns, self.model["ffn_size"])
        checks.check_shared(number, columns, self.model["ffn_size"], self.model["shared_size"])
        if not (isfinite(stage.seconds) and stage.seconds >= 0):
            raise PlanError(
                f"stage {number} has seconds = {stage.seconds}; give a finite number, 0 if unknown"
            )
        idle = [rank.device for rank in stage.ranks if rank.threads < 1]
        if idle:
            raise PlanError(f"stage {number}: device {idle[0]} computes with no thread; give it 1")
        held = [expert for rank in stage.ranks for expert in rank.experts]
        checks.check_experts(number, held, self.model["experts"])


def save_plan(plan: Plan, path: Path) -> None:
    """Write the plan as TOML."""
    tables.write(to_dict(plan), path, "plan")


def load_plan(path: Path) -> Plan:
    """Read a plan from TOML; PlanError says what is wrong with it."""
    remedy = f"make one with `raymoe plan MODEL --ray --to {path}`, or --inventory FILE"
    return tables.read(path, "plan", from_dict, remedy)


def to_dict(plan: Plan) -> dict[str, Any]:
    """Return the plan as plain tables, the form it has in TOML and JSON."""
    return {"model": dict(plan.model), "stages": [asdict(stage) for stage in plan.stages]}


def from_dict(table: Mapping[str, Any]) -> Plan:
    """Return the plan a table describes; PlanError names a key that is unknown or missing."""
    tables.check_keys("plan", table, ("model", "stages"))
    if not isinstance(table["model"], Mapping):
        raise PlanError(f"plan: model is {table['model']!r}; expected a table of sizes")
    stages = tables.entries("plan", "stages", table["stages"])
    plan = Plan(
        model={key: tables.whole("model", key, size) for key, size in table["model"].items()},
        stages=tuple(_stage(number, stage) for number, stage in enumerate(stages)),
    )
    plan.check_kinds()
    return plan


def diff(config: ModelConfig, old: Plan, new: Plan) -> Iterator[Move]:
    """Yield what each rank of ``new`` holds that the rank of the same number in ``old`` does not.

    A span inside what was held is no move; one that grew is yielded whole, because a holder reads
    it in one piece.
    """
    old.check_model(config)
    new.check_model(config)
    for number in range(new.ranks):
        before: dict[str, TensorSlice] = {}
        if number < old.ranks:
            before = {part.name: part for part in held_by(config, old.share(number))}
        for tensor in held_by(config, new.share(number)):
            if not _covers(before.get(tensor.name), tensor):
                yield Move(number, tensor)


def _covers(held: TensorSlice | None, wanted: TensorSlice) -> bool:
    if held is None or held.dim is None:
        return held is not None
    return held.dim == wanted.dim and held.start <= wanted.start and wanted.stop <= held.stop


def _stage(number: int, table: Mapping[str, Any]) -> StagePlan:
    label = f"stage {number}"
    tables.check_keys(label, table, ("layers", "ranks"), ("seconds",))
    ranks = tables.entries(label, "ranks", table["ranks"])
    return StagePlan(
        layers=tables.span(label, "layers", table["layers"]),
        ranks=tuple(_rank(f"{label} rank {member}", rank) for member, rank in enumerate(ranks)),
        seconds=tables.number(label, "seconds", table.get("seconds", 0.0)),
    )


def _rank(label: str, table: Mapping[str, Any]) -> RankPlan:
    tables.check_keys(label, table, ("device", "kv_heads", "ffn", "experts"), ("threads", "kind"))
    return RankPlan(
        device=tables.text(label, "device", table["device"]),
        kv_heads=tables.span(label, "kv_heads", table["kv_heads"]),
        ffn=tables.span(label, "ffn", table["ffn"]),
        experts=tables.wholes(label, "experts", table["experts"]),
        threads=tables.whole(label, "threads", table.get("threads", 1)),
        kind=str(table.get("kind", CPU)),
    )
