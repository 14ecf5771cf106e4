"""A training step of OLMoE-1B-7B, by the trainer that ranks use, and what a snapshot adds to it.

Utilisation (MFU) is of the ceiling of products that was measured. Where the whole model does not
fit, as many layers as do are taken, and the row says how many. A step under the profiler shows
where its time goes; the host is slower then, so what is idle is taken from the steps without.
"""

from collections.abc import Iterator
from statistics import median

from torch import Tensor

from benchmarks.flops import training_flops
from benchmarks.gpu.kernels import kernels, milliseconds_by_kind
from benchmarks.gpu.rows import Bar, Figure, Row, Setting, at_least
from benchmarks.gpu.timing import forget_peak, peak_gigabytes, seconds, taken_gigabytes
from benchmarks.gpu.trainer import Training, training
from moe.config.tensors import parameters

MFU, STALL, MEMORY = 0.30, 0.05, 0.05
"""On an H200: utilisation at least; a snapshot's part of a step, and how far memory is from what
was predicted, at most."""

_STEPS = 3
_SLICE_BYTES = 8 * 10**9
"""Of a snapshot: no more is copied, because the host may not have room for all."""


def part(setting: Setting) -> Iterator[Row]:
    """Yield the step, where its time goes, and the stall of a snapshot."""
    with training(setting) as trained:
        forget_peak(setting)
        trained.step()
        count = 1 if setting.tiny else _STEPS
        taken = median(seconds(setting, trained.step) for _ in range(count))
        yield _speed(setting, trained, taken)
        spent = milliseconds_by_kind(kernels(setting, trained.step))
        idle = max(taken * 1e3 - sum(spent.values()), 0.0)
        yield Row("where a step goes, ms", {**spent, "idle": idle})
        yield _snapshot(setting, trained, taken)


def _speed(setting: Setting, trained: Training, taken: float) -> Row:
    config, held = trained.config, taken_gigabytes(setting)
    predicted = trained.predicted / 1e9
    reached = training_flops(config, trained.length) * trained.tokens / taken
    used = setting.share_of_flops(reached)
    figures: dict[str, Figure] = {
        "layers": config.layers,
        "parameters": parameters(config),
        "seconds": taken,
        "tokens/s": trained.tokens / taken,
        "TFLOP/s": reached / 1e12,
        "MFU": used,
        "tensors at most GB": peak_gigabytes(setting),
        "card GB": held,
        "predicted GB": predicted,
    }
    bars: list[Bar] = []
    if used is not None:
        bars.append(at_least(setting, "MFU", used, MFU))
    if held is not None:
        bars.append(_close(setting, held / predicted))
    return Row("training step", figures, tuple(bars))


def _close(setting: Setting, ratio: float) -> Bar:
    """Return the bar of the memory of the card over what was predicted."""
    met = abs(ratio - 1) <= MEMORY if setting.judges_speed else None
    return Bar(f"memory {ratio:.2f} x the predicted, within {MEMORY:.0%}", met)


def _snapshot(setting: Setting, trained: Training, taken: float) -> Row:
    """Copy some moments to the host, and see what the next step loses by it."""
    moments, size = _slice(trained)
    buffers = trained.share.device.buffers()
    buffers.copied(moments)
    buffers.wait()

    def copy() -> None:
        buffers.copied(moments)
        buffers.wait()

    def step() -> None:
        buffers.copied(moments)
        trained.step(buffers.hold_back)

    copying, stepping = seconds(setting, copy), seconds(setting, step)
    buffers.wait()
    stall = (stepping - taken) / taken
    figures = {"GB": size / 1e9, "GB/s": size / copying / 1e9, "stall of a step": stall}
    met = stall <= STALL if setting.judges_speed else None
    return Row("snapshot", figures, (Bar(f"stall {stall:.3f} <= {STALL:g}", met),))


def _slice(trained: Training) -> tuple[list[Tensor], int]:
    """Return moments of some gigabytes, and how many bytes these are."""
    found: list[Tensor] = []
    size = 0
    for state in trained.trainer.optimizer.states():
        for moment in state.moments.values():
            if size < _SLICE_BYTES:
                found.append(moment)
                size += moment.nbytes
    return found, size
