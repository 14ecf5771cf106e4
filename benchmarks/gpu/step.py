"""A training step of OLMoE-1B-7B with random weights, by the trainer that ranks use.

Utilisation (MFU) is of the ceiling of products that was measured. Where the whole model does not
fit, as many layers as do are taken, and the row says how many. A step under the profiler shows
where its time goes; the host is slower then, so what is idle is taken from the steps without.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch

from actors.commands import BuildCommand, StepInput
from actors.epochs.groups import Groups, destroy_groups, open_store
from actors.epochs.membership import Membership
from actors.rank.share import LoadedShare
from actors.state.sources import Opened
from actors.step.training import RankTrainer
from benchmarks.flops import training_flops
from benchmarks.gpu.kernels import kernels, milliseconds_by_kind
from benchmarks.gpu.layers import kind, olmoe, random_weights
from benchmarks.gpu.rows import Figure, Row, Setting, at_least
from benchmarks.gpu.timing import forget_peak, peak_gigabytes, seconds
from moe.checkpoint.buffers import Buffers
from moe.config.model import ModelConfig
from moe.config.run import RunConfig, parse_run
from moe.config.share import whole
from moe.config.tensors import parameters
from moe.planning.counts.memory import Position, rank_bytes
from moe.planning.counts.workload import BF16, Workload
from moe.planning.plan.plan import Plan, RankPlan, StagePlan

MFU, WITHIN = 0.30, 0.05
"""Utilisation of an OLMoE-1B-7B on an H200; how far memory may be from what is predicted."""

_MICRO_BATCHES, _STEPS = 4, 3
_SLICE_BYTES = 8 * 10**9
"""Of a snapshot: its stall is measured on this much, because the host may not hold all."""

_ROOM = 0.95
_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _Random:
    """A source of random weights made on the device; training begins at step 0."""

    setting: Setting
    architecture: ModelConfig

    def config(self) -> ModelConfig:
        """Return the architecture."""
        return self.architecture

    def open(self) -> Opened:
        """Return what reads, that is draws, weights."""
        return Opened(self.architecture, random_weights(self.setting))


def part(setting: Setting) -> Iterator[Row]:
    """Yield the step, its parts, and the stall of a snapshot."""
    length = 16 if setting.tiny else 4096
    config, predicted = _fitting(setting, length)
    forget_peak(setting)
    trainer = _trainer(setting, config, length)
    try:
        yield from _steps(setting, trainer, config, predicted)
        yield from _snapshot(setting, trainer)
    finally:
        destroy_groups()


def _steps(
    setting: Setting, trainer: RankTrainer, config: ModelConfig, predicted: int
) -> Iterator[Row]:
    length = 16 if setting.tiny else 4096
    trainer.step(_batch(config, length, 0))
    times = [
        seconds(setting, lambda step=step: trainer.step(_batch(config, length, step)))  # type: ignore[misc]
        for step in range(1, 2 if setting.tiny else 1 + _STEPS)
    ]
    taken, tokens = median(times), _MICRO_BATCHES * length
    reached = training_flops(config, length) * tokens / taken
    used = setting.share_of_flops(reached)
    peak = peak_gigabytes(setting)
    figures: dict[str, Figure] = {
        "layers": config.layers,
        "parameters": parameters(config),
        "seconds": taken,
        "tokens/s": tokens / taken,
        "TFLOP/s": reached / 1e12,
        "MFU": used,
        "peak GB": peak,
        "predicted GB": predicted / 1e9,
    }
    bars = () if used is None else (at_least(setting, "MFU", used, MFU),)
    yield Row("training step", figures, bars)
    batch = _batch(config, length, trainer.steps_done)
    found = milliseconds_by_kind(kernels(setting, lambda: trainer.step(batch)))
    busy = sum(found.values())
    yield Row("where a step goes, ms", {**found, "idle": max(taken * 1e3 - busy, 0.0)})


def _snapshot(setting: Setting, trainer: RankTrainer) -> Iterator[Row]:
    """Copy a slice of the moments to the host, to pinned memory and to other."""
    moments = [each for state in trainer.optimizer.states() for each in state.moments.values()]
    whole_bytes = sum(each.nbytes for each in moments)
    taken, size = [], 0
    for each in moments:
        if size < _SLICE_BYTES:
            taken.append(each)
            size += each.nbytes
    for pinned in (True, False) if setting.cuda else (False,):
        buffers = Buffers(pinned)
        buffers.copied(taken)
        spent = seconds(setting, lambda buffers=buffers: buffers.copied(taken))  # type: ignore[misc]
        figures = {
            "GB": size / 1e9,
            "GB/s": size / spent / 1e9,
            "stall of all moments s": spent * whole_bytes / size,
        }
        yield Row("snapshot, pinned" if pinned else "snapshot, pageable", figures)


def _fitting(setting: Setting, length: int) -> tuple[ModelConfig, int]:
    """Return the model of the most layers whose predicted bytes fit, and these bytes."""
    workload = Workload(length, 1, _MICRO_BATCHES, numerics=BF16)
    free = torch.cuda.mem_get_info()[0] if setting.cuda else float("inf")
    for layers in range(olmoe(setting).layers, 0, -1):
        config = olmoe(setting, layers)
        needed = rank_bytes(config, whole(config), Position(), workload).total
        if needed <= _ROOM * free:
            return config, needed
    raise RuntimeError(f"{free / 1e9:.1f} GB are free, not enough for one layer of the model")


def _trainer(setting: Setting, config: ModelConfig, length: int) -> RankTrainer:
    """Return the trainer of a rank that holds the whole model, in the groups of an epoch."""
    share = whole(config)
    rank = RankPlan(("here",), share.kv_heads, share.ffn, share.experts, 1, kind(setting))
    plan = Plan(config.summary(), (StagePlan(share.layers, (rank,)),))
    seat = plan.seats.seat(0)
    loaded = LoadedShare(BuildCommand(plan, seat, length, _run()), _Random(setting, config))
    store = open_store("127.0.0.1", _SECONDS)
    address = "127.0.0.1", store.port, _SECONDS
    membership = Membership("check", 1, seat, plan.seats, (0, 0), *address)
    loaded.join(Groups(membership, loaded.device.backend, store))
    assert loaded.trainer is not None
    return loaded.trainer


def _run() -> RunConfig:
    table = {
        "name": "check",
        "model": {"path": "unused"},
        "data": {"path": "unused"},
        "train": {
            "steps": 9,
            "global_batch": _MICRO_BATCHES,
            "learning_rate": 1e-5,
            "precision": "bf16",
        },
        "checkpoint": {"path": "unused"},
    }
    return parse_run(table, "the check")


def _batch(config: ModelConfig, length: int, step: int) -> StepInput:
    source = np.random.default_rng(step)
    size = (_MICRO_BATCHES, length)
    tokens = source.integers(config.vocab_size, size=size, dtype=np.int32)
    return StepInput(step, tokens, np.roll(tokens, -1, axis=1), tokens.size)
