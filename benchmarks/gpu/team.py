"""Ranks of a small model in processes of their own, on one card: the real engine, without Ray.

NCCL takes one rank a card, so several ranks on one card meet over gloo, which sums and broadcasts
tensors of a GPU but sends none: gangs and replicas can be tried, stages cannot.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from actors.commands import BuildCommand, StepInput, StepReport
from actors.crew.gather import gather
from actors.crew.over_pipes import PipeCrew
from actors.crew.process import MakeRank, RankProcess
from actors.device import GLOO
from actors.engine.healing import Making
from actors.engine.training import TrainingEngine
from actors.rank.rank import Rank
from actors.state.sources import Blank, CheckpointSource, ModelSource, Source
from benchmarks.gpu.families import FAMILIES
from benchmarks.gpu.layers import kind
from benchmarks.gpu.rows import Setting
from moe.checkpoint.drafts import drafted
from moe.checkpoint.training import About, SaveContext, complete
from moe.config.run import RunConfig, parse_run
from moe.planning.plan.file import to_dict
from moe.planning.plan.plan import Plan, RankPlan, StagePlan
from moe.planning.stages.split import groups, spans, split
from moe.surgery.initialise import initialise

CONFIG = FAMILIES["mixtral"]
SECONDS, LAUNCH_SECONDS = 20.0, 45.0

_LENGTH, _BATCH = 32, 4


class CheckedRank(Rank):
    """A rank whose bits can be compared."""

    def digest(self) -> str:
        """Return a hash of all weights, and of all moments that this rank owns."""
        share, found = self._share(), sha256()
        for _, weight in sorted(share.decoder.named_parameters()):
            found.update(_bytes(weight))
        for state in self._trainer().optimizer.states():
            for moment in state.moments.values():
                found.update(_bytes(moment))
        return found.hexdigest()


class SharedCardRank(CheckedRank):
    """A rank that meets the others over gloo, whatever it computes on."""

    def build(self, command: BuildCommand, source: Source) -> None:
        """Build it, then change the backend of its groups."""
        super().build(command, source)
        share = self._share()
        share.device = replace(share.device, backend=GLOO)  # type: ignore[type-var]


class Team:
    """The ranks of one plan, and the engine that trains them from one model directory."""

    def __init__(self, plan: Plan, folder: Path, make: MakeRank, precision: str) -> None:
        self.plan = plan
        self.run = _run(folder, precision)
        self.processes = [RankProcess(number, make) for number in range(len(self.plan.seats))]
        self.crew = PipeCrew(self.plan.seats, self.processes, make)
        self.source = ModelSource(folder)
        self.making = Making(self.run, Blank(CONFIG), _LENGTH)
        self.engine = self.begin(self.source)

    def begin(self, source: Source) -> TrainingEngine:
        """Build the ranks from a source, and train from there."""
        self.engine = TrainingEngine.train(self.crew, self.run, self.plan, source, _LENGTH)
        return self.engine

    def step(self, number: int) -> StepReport:
        """Run a step on tokens that belong to its number."""
        return self.engine.train_step(batch(number))

    def save(self, to: Path, step: int) -> CheckpointSource:
        """Write a whole checkpoint after a step."""
        self.engine.snapshot(step)
        context = SaveContext(CONFIG, self.run, to, "none")
        with drafted(to) as draft:
            written = self.engine.write(draft, step).result()
            complete(draft, About(context, to_dict(self.plan), step), written)
        return CheckpointSource(to)

    def each(self, method: str, *arguments: Any) -> list[Any]:
        """Give every rank a command; return the answers."""
        answers = {seat: self.crew.tell(seat, method, *arguments) for seat in self.crew.seats}
        return gather(self.crew, answers, method, SECONDS)


@contextmanager
def team(
    setting: Setting,
    folder: Path,
    shape: tuple[int, int] = (1, 1),
    make: MakeRank | None = None,
    precision: str = "fp32",
) -> Iterator[Team]:
    """Start the ranks of a plan of one stage, all on the one device, and end them.

    ``shape`` are the members of the gang, and the replicas.
    """
    plan = _plan(setting, *shape)
    make = make or (CheckedRank if shape == (1, 1) else SharedCardRank)
    made = Team(plan, folder, make, precision)
    try:
        yield made
    finally:
        made.crew.end()


@contextmanager
def model_directory() -> Iterator[Path]:
    """Make a model with random weights, for as long as it is needed."""
    with TemporaryDirectory() as folder:
        initialise(CONFIG, Path(folder) / "model", seed=1)
        yield Path(folder) / "model"


def batch(step: int) -> StepInput:
    """Return the tokens of a step."""
    source = np.random.default_rng(step)
    tokens = source.integers(CONFIG.vocab_size, size=(_BATCH, _LENGTH), dtype=np.int32)
    return StepInput(step, tokens, np.roll(tokens, -1, axis=1), tokens.size)


def _plan(setting: Setting, gang: int, replicas: int) -> Plan:
    """Return a plan of one stage whose ranks all sit on the one device."""
    heads, columns = (spans(split(n, gang)) for n in (CONFIG.kv_heads, CONFIG.ffn_size))
    experts = groups(split(CONFIG.experts, gang))
    ranks = tuple(
        RankPlan(
            tuple(f"here/{member + gang * replica}" for replica in range(replicas)),
            heads[member],
            columns[member],
            experts[member],
            kind=kind(setting),
        )
        for member in range(gang)
    )
    return Plan(CONFIG.summary(), (StagePlan((0, CONFIG.layers), ranks),))


def _run(folder: Path, precision: str) -> RunConfig:
    table = {
        "name": "check",
        "model": {"path": str(folder)},
        "data": {"path": "unused"},
        "train": {
            "steps": 9,
            "global_batch": _BATCH,
            "learning_rate": 1e-3,
            "epsilon": 1e-4,
            "precision": precision,
            "deterministic": True,
        },
        "checkpoint": {"path": "unused"},
        "cluster": {
            "group_seconds": SECONDS,
            "step_seconds": SECONDS,
            "launch_seconds": LAUNCH_SECONDS,
        },
    }
    return parse_run(table, "the check")


def _bytes(x: torch.Tensor) -> bytes:
    return x.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
