"""OLMoE-1B-7B with random weights in the trainer of a rank, alone in the groups of an epoch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from actors.commands import BuildCommand, RankReport, StepInput
from actors.epochs.environment import prepare
from actors.epochs.groups import Groups, open_store
from actors.epochs.leaving import leave_groups
from actors.epochs.membership import Membership
from actors.rank.memory import predicted_bytes
from actors.rank.share import LoadedShare
from actors.state.sources import Opened
from benchmarks.gpu.layers import kind, olmoe, random_weights
from benchmarks.gpu.rows import Setting
from moe.config.model import ModelConfig
from moe.config.run import RunConfig, parse_run
from moe.config.share import whole
from moe.planning.plan.plan import Plan, RankPlan, StagePlan

MICRO_BATCHES = 4

_HOST, _SECONDS = "127.0.0.1", 60.0
_ROOM = 0.95
"""Of the free memory that a prediction may take."""


@dataclass(frozen=True, slots=True)
class RandomSource:
    """A source of random weights, drawn on the device; training begins at step 0."""

    setting: Setting
    architecture: ModelConfig

    def config(self) -> ModelConfig:
        """Return the architecture."""
        return self.architecture

    def open(self) -> Opened:
        """Return what draws weights."""
        return Opened(self.architecture, random_weights(self.setting), lambda own: None)


class Training:
    """The trainer, and what it is fed. ``predicted`` are the bytes that a plan would count."""

    def __init__(self, setting: Setting) -> None:
        self.length = 16 if setting.tiny else 4096
        command, source, self.predicted = _fitting(setting, self.length)
        self.config, plan, seat = source.config(), command.plan, command.seat
        self.share = LoadedShare(command, source)
        store = open_store(_HOST, _SECONDS)
        where = _HOST, store.port, _SECONDS
        membership = Membership("check", 1, seat, plan.seats, plan.homes, *where)
        groups = Groups(membership, self.share.device.backend, store)
        groups.connect(self.share.device)
        self.share.join(groups)
        assert self.share.trainer is not None
        self.trainer = self.share.trainer

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return MICRO_BATCHES * self.length

    def step(self, hold_back: Callable[[], None] = lambda: None) -> RankReport:
        """Run the next step on tokens of its own."""
        return self.trainer.step(self._batch(self.trainer.steps_done), hold_back)

    def _batch(self, step: int) -> StepInput:
        source, size = np.random.default_rng(step), (MICRO_BATCHES, self.length)
        tokens = source.integers(self.config.vocab_size, size=size, dtype=np.int32)
        return StepInput(step, tokens, np.roll(tokens, -1, axis=1), tokens.size)


@contextmanager
def training(setting: Setting) -> Iterator[Training]:
    """Make the trainer in this process, whose groups end with it."""
    prepare(_HOST)
    try:
        yield Training(setting)
    finally:
        leave_groups()


def _fitting(setting: Setting, length: int) -> tuple[BuildCommand, RandomSource, int]:
    """Return the rank of the most layers whose predicted bytes fit, and these bytes."""
    free = torch.cuda.mem_get_info()[0] if setting.cuda else float("inf")
    for layers in range(olmoe(setting).layers, 0, -1):
        source = RandomSource(setting, olmoe(setting, layers))
        command = _command(setting, source.config(), length)
        needed = predicted_bytes(command, source.architecture)
        if needed <= _ROOM * free:
            return command, source, needed
    raise RuntimeError(f"{free / 1e9:.1f} GB are free, not enough for one layer of the model")


def _command(setting: Setting, config: ModelConfig, length: int) -> BuildCommand:
    """Return the command to build the one rank that holds a whole model."""
    share = whole(config)
    rank = RankPlan(("here",), share.kv_heads, share.ffn, share.experts, 1, kind(setting))
    plan = Plan(config.summary(), (StagePlan(share.layers, (rank,)),))
    return BuildCommand(plan, plan.seats.seat(0), length, _run())


def _run() -> RunConfig:
    train = {"steps": 99, "global_batch": MICRO_BATCHES, "learning_rate": 1e-5}
    table = {
        "name": "check",
        "model": {"path": "unused"},
        "data": {"path": "unused"},
        "train": train | {"precision": "bf16"},
        "checkpoint": {"path": "unused"},
    }
    return parse_run(table, "the check")
