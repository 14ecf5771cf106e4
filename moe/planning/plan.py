"""The Plan: who holds which layers, heads and experts. A value; its file form; its comparison.

Everything downstream is built from it: actors, placement, checkpoints, manifests, reports.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tomli_w

from moe.config.model import ModelConfig
from moe.config.share import Share
from moe.config.tensors import TensorSlice, held_by
from moe.errors import PlanError


@dataclass(frozen=True, slots=True)
class RankPlan:
    """One actor: its device and its slice of every layer of its stage.

    ``kv_heads`` and ``ffn`` are half-open spans, ``experts`` expert numbers, ``threads`` the CPU
    threads the actor computes with.
    """

    device: str
    kv_heads: tuple[int, int]
    ffn: tuple[int, int]
    experts: tuple[int, ...]
    threads: int = 1


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
        if not self.stages:
            raise PlanError("the plan has no stages; give it at least one")
        self._check_layers()
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
        return self.stages[number // self.gang_size].ranks[number % self.gang_size]

    def share(self, number: int) -> Share:
        """Return what rank ``number`` holds."""
        stage, member = divmod(number, self.gang_size)
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

    def _check_layers(self) -> None:
        expected = 0
        for number, stage in enumerate(self.stages):
            start, stop = stage.layers
            if start != expected or stop <= start:
                raise PlanError(
                    f"stage {number} holds layers [{start}, {stop}) but layer {expected} is next; "
                    "stages must follow each other without gaps and hold a layer each"
                )
            expected = stop
        if expected != self.model["layers"]:
            raise PlanError(
                f"the stages hold {expected} layers but the model has {self.model['layers']}; "
                "every layer needs a holder"
            )

    def _check_gang(self, number: int, stage: StagePlan) -> None:
        if len(stage.ranks) != self.gang_size:
            raise PlanError(
                f"stage {number} has {len(stage.ranks)} ranks, stage 0 has {self.gang_size}; "
                "all gangs of a plan are of one size"
            )
        _check_spans(number, "kv_heads", [rank.kv_heads for rank in stage.ranks])
        _check_spans(number, "ffn", [rank.ffn for rank in stage.ranks])
        last = stage.ranks[-1]
        for what, stop, size in (
            ("key-value heads", last.kv_heads[1], self.model["kv_heads"]),
            ("feed-forward columns", last.ffn[1], self.model["ffn_size"]),
        ):
            if stop != size:
                raise PlanError(
                    f"stage {number} holds {stop} {what} but the model has {size}; "
                    "every one needs a holder"
                )
        held = sorted(expert for rank in stage.ranks for expert in rank.experts)
        if held != list(range(self.model["experts"])):
            raise PlanError(
                f"stage {number} holds experts {held} but the model has "
                f"{self.model['experts']}; every expert needs exactly one holder"
            )


def save_plan(plan: Plan, path: Path) -> None:
    """Write the plan as TOML."""
    path.write_text(tomli_w.dumps(to_dict(plan)), encoding="utf-8")


def load_plan(path: Path) -> Plan:
    """Read a plan from TOML; PlanError says what is wrong with it."""
    try:
        return from_dict(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise PlanError(
            f"no plan at {path}; make one with `raymoe plan MODEL --to {path}`"
        ) from None
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise PlanError(f"{path} is not a plan: {error}; make one with `raymoe plan`") from error


def to_dict(plan: Plan) -> dict[str, Any]:
    """Return the plan as plain tables, the form it has in TOML and JSON."""
    return {"model": dict(plan.model), "stages": [asdict(stage) for stage in plan.stages]}


def from_dict(table: Mapping[str, Any]) -> Plan:
    """Return the plan a table describes."""
    return Plan(
        model=dict(table["model"]),
        stages=tuple(
            StagePlan(
                layers=_pair(stage["layers"]),
                ranks=tuple(_rank(rank) for rank in stage["ranks"]),
                seconds=float(stage.get("seconds", 0.0)),
            )
            for stage in table["stages"]
        ),
    )


def diff(config: ModelConfig, old: Plan, new: Plan) -> Iterator[Move]:
    """Yield what each rank of ``new`` holds that the rank of the same number in ``old`` does not.

    Whole tensors are compared with whole tensors and spans with spans; a span that grew is yielded
    as the new span, because a holder reads it in one piece.
    """
    for number in range(new.ranks):
        before = set(held_by(config, old.share(number))) if number < old.ranks else set()
        for tensor in held_by(config, new.share(number)):
            if tensor not in before:
                yield Move(number, tensor)


def _pair(value: Any) -> tuple[int, int]:
    start, stop = value
    return int(start), int(stop)


def _rank(table: Mapping[str, Any]) -> RankPlan:
    return RankPlan(
        device=str(table["device"]),
        kv_heads=_pair(table["kv_heads"]),
        ffn=_pair(table["ffn"]),
        experts=tuple(int(expert) for expert in table["experts"]),
        threads=int(table.get("threads", 1)),
    )


def _check_spans(stage: int, what: str, spans: list[tuple[int, int]]) -> None:
    expected = 0
    for start, stop in spans:
        if start != expected or stop <= start:
            raise PlanError(
                f"stage {stage}: {what} span [{start}, {stop}) does not follow {expected}; "
                "the ranks of a gang split a stage without gaps or overlaps"
            )
        expected = stop
