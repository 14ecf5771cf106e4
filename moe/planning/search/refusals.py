"""Why a search found no plan: what was asked, what is there, what would help."""

from collections.abc import Iterator, Sequence

from moe.config.share import Share
from moe.planning.counts.memory import RankBytes, rank_bytes
from moe.planning.devices.inventory import Device
from moe.planning.plan.seats import Seat, Seats
from moe.planning.prediction.positions import positions_of
from moe.planning.search.question import Question
from moe.planning.search.shapes import Shape
from moe.planning.stages.split import spans, split
from moe.planning.stages.units import Unit, form_gangs, form_units
from moe.planning.stages.widths import cut_width, width_share
from moe.sizes import size_text, unlike_texts


def why_no_plan(question: Question) -> str:
    """Return the first obstacle to the pinned shape.

    Where the shape is not pinned, the deepest pipeline is tried: it needs the least memory.
    """
    shape = _tried(question)
    gangs = form_gangs(question.inventory, shape.gang)
    units = form_units(gangs, shape.replicas, shape.stages)
    if len(units) < shape.stages:
        return (
            f"the plan needs {shape.stages} stages of {shape.replicas} x {shape.gang} ranks, but "
            f"the {len(question.inventory.devices)} devices form only {len(units)}: the ranks of a "
            "gang must be connected to each other, and replicas of one rank must have devices of "
            "one kind; lower plan.gang or plan.stages, or add devices or links"
        )
    lean = _does_not_fit(question, shape, units)
    if lean is not None:
        return lean
    return (
        f"no order of the devices connects the {shape.stages} stages of a pipeline; add links "
        "between the nodes (a link whose bytes_per_second is 0 connects nothing), or pin less"
    )


def _tried(question: Question) -> Shape:
    pins, config = question.pins, question.config
    devices = len(question.inventory.devices)
    gang, replicas = pins.gang or 1, pins.replicas or 1
    micro_batch = pins.micro_batch or 1
    count = question.sequences // (replicas * micro_batch)
    deepest = min(config.layers, devices // (gang * replicas), count)
    return Shape(gang, replicas, pins.depth or max(1, deepest), micro_batch)


def _does_not_fit(question: Question, shape: Shape, units: list[Unit]) -> str | None:
    """Say which rank does not fit even with every layer recomputed; None where all ranks fit."""
    layers = spans(question.pins.layers or split(question.config.layers, shape.stages))
    work, seats = question.cut(shape), Seats(shape.replicas, shape.stages, shape.gang)
    worst: tuple[float, str] | None = None
    for stage, (position, held) in enumerate(
        zip(positions_of(shape.stages, work), layers, strict=True)
    ):
        for member, devices in enumerate(units[stage].columns):
            share = _share(question, units[stage], member, held, position.ends)
            recompute = range(*held) if work.training else ()
            need = rank_bytes(question.config, share, position, work, recompute, shape.replicas)
            rank = seats.rank(Seat(0, stage, member))
            for part, why in _shortages(rank, stage, need, devices):
                if part > 1 and (worst is None or part > worst[0]):
                    worst = part, why
    return worst and worst[1]


def _share(
    question: Question, unit: Unit, member: int, layers: tuple[int, int], ends: tuple[bool, bool]
) -> Share:
    width = cut_width(question.config, [1.0] * len(unit.columns))[member]
    whole = width_share(question.config, width)
    return Share(
        layers=layers,
        embedding=ends[0],
        head=ends[1],
        kv_heads=whole.kv_heads,
        ffn=whole.ffn,
        experts=whole.experts,
        vocabulary=whole.vocabulary,
    )


def _shortages(
    rank: int, stage: int, need: RankBytes, devices: Sequence[Device]
) -> Iterator[tuple[float, str]]:
    """Yield the parts that a rank needs of a device and of its host, each with what to say."""
    device = min(devices, key=lambda each: each.memory_bytes)
    yield need.total / device.memory_bytes, _short_of(rank, stage, need, device)
    for host in (each for each in devices if each.host_bytes):
        needs, has = unlike_texts(need.host, host.host_bytes)
        yield (
            need.host / host.host_bytes,
            f"rank {rank} (stage {stage}) needs {needs} of the memory of its node (its process, "
            f"snapshots, copies) but the part of device {host.name} is {has}; raise "
            "plan.stages, plan.gang or plan.replicas, or use nodes with more memory for each GPU",
        )


def _short_of(rank: int, stage: int, need: RankBytes, device: Device) -> str:
    needs, has = unlike_texts(need.total, device.memory_bytes)
    return (
        f"rank {rank} (stage {stage}) needs {needs} ({_shown(need)}) but device "
        f"{device.name} has {has}; raise plan.stages or plan.gang, "
        "lower the micro-batch or the sequence length, or use a device with more memory"
    )


def _shown(need: RankBytes) -> str:
    parts = {
        "weights": need.weights,
        "gradients": need.gradients,
        "AdamW": need.optimizer,
        "activations": need.activations,
        "working": need.working,
        "buffers": need.buffers,
        "snapshot": need.snapshot,
        "copies": need.copies,
        "process": need.process,
    }
    return ", ".join(f"{what} {size_text(size)}" for what, size in parts.items() if size)
