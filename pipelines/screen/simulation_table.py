"""A simulated step on the terminal: time, bubble and memory of each stage; MFU, what it counts."""

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from moe.config.model import ModelConfig
from moe.planning.counts.memory import PROCESS_BYTES, RankBytes
from moe.planning.devices.inventory import Inventory
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat
from moe.planning.prediction.predict import Prediction
from pipelines.planning.capacity import flops_per_second, peak_flops, useful_flops
from pipelines.screen.comparison import devices_of, facts

_PARTS = {
    "weights": "weights",
    "gradients": "grads",
    "optimizer": "AdamW",
    "activations": "activ-\nations",
    "working": "work-\ning",
    "buffers": "buf-\nfers",
    "snapshot": "snap-\nshot",
}
"""What the bytes of a rank are for, beside its process, with headings."""


def simulation_table(plan: Plan, inventory: Inventory, predicted: Prediction) -> Table:
    """Return one row per stage, with the bytes of its fullest rank."""
    table = Table(
        caption="memory peaks in GB, of the fullest rank of each stage; the total has "
        f"{PROCESS_BYTES / 1e9:.2f} GB for the process",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=0,
    )
    for heading in ("stage", "time\ns", "bubble", *_PARTS.values(), "total/limit"):
        table.add_column(heading, justify="right", no_wrap=True)
    bubbles = predicted.timeline.bubble
    for stage, (time, bubble) in enumerate(zip(predicted.stage_seconds, bubbles, strict=True)):
        memory = _memory(plan, inventory, predicted, stage)
        table.add_row(str(stage), f"{time:.3g}", f"{bubble:.1%}", *memory)
    return table


def simulation_lines(
    config: ModelConfig, plan: Plan, inventory: Inventory, predicted: Prediction
) -> list[str]:
    """Return the step, and how much of the devices' peak it reaches."""
    work = predicted.workload
    devices = devices_of(plan, inventory)
    peak, what = peak_flops(inventory, devices, work.numerics.half)
    reached = flops_per_second(config, predicted)
    each = useful_flops(config, work.sequence_length)
    return [
        f"schedule {work.schedule}, numbers {work.numerics.name}",
        *facts(plan, inventory, predicted),
        f"{predicted.tokens_per_second / len(devices):,.4g} tokens/s a device",
        f"MFU {reached / peak:.1%}: {each:.3g} FLOPs a token (6 x active parameters, and attention "
        f"over the whole sequence), {reached / len(devices):.3g} FLOP/s a device of "
        f"{peak / len(devices):.3g}, {what}",
    ]


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
    parts = [Text(f"{getattr(need, part) / 1e9:.2f}") for part in _PARTS]
    style = "red" if fullness(fullest) > 1 else ""
    return [*parts, Text(f"{need.total / 1e9:.1f}/{limit(fullest) / 1e9:.1f}", style=style)]
