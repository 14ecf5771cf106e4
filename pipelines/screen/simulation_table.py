"""A simulated step on the terminal: time, bubble and memory of each stage, and MFU."""

from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from moe.config.model import ModelConfig
from moe.planning.counts.memory import RankBytes
from moe.planning.devices.inventory import Inventory
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat
from moe.planning.prediction.predict import Prediction
from pipelines.planning.capacity import (
    devices_used,
    flops_per_second,
    peak_flops,
    useful_flops,
)
from pipelines.screen.comparison import facts
from pipelines.screen.grid import NARROW, grid, heading
from pipelines.screen.words import compared_gigabytes

_PARTS = {
    "weights": "weights",
    "gradients": "grads",
    "optimizer": "AdamW",
    "activations": "activ~\nations",
    "working": "work~\ning",
    "buffers": "buf~\nfers",
    "snapshot": "snap~\nshot",
}
"""Purposes of a rank's bytes, without the process, with their headings."""


def simulation_table(
    plan: Plan, inventory: Inventory, predicted: Prediction, width: int = NARROW
) -> Table:
    """Return one row per stage, with the bytes of its fullest rank."""
    caption = (
        "memory: the peak of the fullest rank of each stage, in GB; the total includes "
        f"{max(each.process for each in predicted.rank_bytes) / 1e9:.2f} GB beside tensors"
    )
    table = grid(width, caption=caption)
    parts = _parts(predicted)
    for text in ("stage", "time\ns", "bubble", *parts.values(), "total/limit"):
        table.add_column(heading(text, width), justify="right", no_wrap=True)
    bubbles = predicted.timeline.bubble
    for stage, (time, bubble) in enumerate(zip(predicted.stage_seconds, bubbles, strict=True)):
        memory = _memory(plan, inventory, predicted, stage)
        table.add_row(str(stage), f"{time:.3g}", f"{bubble:.1%}", *memory)
    return table


def simulation_lines(
    config: ModelConfig, plan: Plan, inventory: Inventory, predicted: Prediction
) -> list[str]:
    """Return lines about the step and its fraction of the devices' peak."""
    work = predicted.workload
    devices = devices_used(plan, inventory)
    peak, what = peak_flops(inventory, devices, work.numerics.sixteen_bit)
    reached = flops_per_second(config, predicted)
    each = useful_flops(config, work.sequence_length)
    return [
        f"schedule {work.schedule}, numerics {work.numerics.name}",
        *facts(plan, inventory, predicted),
        f"{predicted.tokens_per_second / len(devices):,.4g} tokens/s for each device",
        f"MFU {reached / peak:.1%}: {each:.3g} useful FLOPs for each token (6 x active parameters, "
        f"and attention over the whole sequence), {reached / len(devices):.3g} FLOP/s for "
        f"each device, of {peak / len(devices):.3g}, {what}",
    ]


def _parts(predicted: Prediction) -> Mapping[str, str]:
    """Return the purposes of bytes with their headings; copies only where they are kept."""
    kept = any(need.copies for need in predicted.rank_bytes)
    return {**_PARTS, "copies": "copies"} if kept else _PARTS


def _memory(plan: Plan, inventory: Inventory, predicted: Prediction, stage: int) -> list[Text]:
    known = {device.name: device.memory_bytes for device in inventory.devices}

    def needed(seat: Seat) -> RankBytes:
        return predicted.rank_bytes[plan.seats.rank(seat)]

    def limit(seat: Seat) -> int:
        return min(known[name] for name in plan.rank(seat).devices)

    def fullness(seat: Seat) -> float:
        return needed(seat).total / limit(seat)

    fullest = max(plan.seats.of_stage(stage), key=fullness)
    need = needed(fullest)
    parts = [Text(_hundredths(getattr(need, part))) for part in _parts(predicted)]
    style = "red" if fullness(fullest) > 1 else ""
    return [*parts, Text(compared_gigabytes(need.total, limit(fullest)), style=style)]


def _hundredths(size: int) -> str:
    return f"{size / 1e9:.2f}" if size >= 1e7 or not size else f"{size / 1e9:.1g}"
