"""The lines below a plan: its step, the same with even layers, the source of the seconds."""

from rich.table import Table

from moe.planning.devices.inventory import Inventory
from moe.planning.devices.rates import EFFICIENCY
from moe.planning.plan.plan import Plan
from moe.planning.prediction.predict import Prediction
from moe.planning.search.search import Candidate, Found
from pipelines.planning.capacity import devices_used
from pipelines.screen.grid import NARROW, grid, heading
from pipelines.screen.words import count, repeated, seconds

_VALUES = {"step": "step\ns", "tokens": "tokens\nheld", "memory": "memory\n%"}
_RATIO = "over\nbest"


def comparison(
    plan: Plan, inventory: Inventory, predicted: Prediction, even: Prediction
) -> list[str]:
    """Return the lines; ``even`` is the prediction for the same gangs with even layers."""
    slowest, step = predicted.slowest_seconds, predicted.step_seconds
    return [
        f"slowest stage: {seconds(slowest)} for a micro-batch"
        + _against(slowest, even.slowest_seconds),
        f"{_work(predicted)}: {seconds(step)}{_against(step, even.step_seconds)}"
        + _overfull(plan, inventory, even),
        *_rates_and_sources(plan, inventory, predicted),
    ]


def facts(plan: Plan, inventory: Inventory, predicted: Prediction) -> list[str]:
    """Return the same lines without a comparison."""
    step = f"{_work(predicted)}: {seconds(predicted.step_seconds)}"
    return [step, *_rates_and_sources(plan, inventory, predicted)]


def alternatives_table(found: Found, objective: str, width: int = NARROW) -> Table | None:
    """Return a table of the plan and the best plans of the nearest shapes; None if there are
    none.
    """
    if not found.alternatives:
        return None
    table = grid(
        width, "the plan (first row), and the best plans of other stages, gangs and replicas"
    )
    for text in ("stages", "gang", "repli~\ncas", "micro-\nbatch"):
        table.add_column(heading(text, width), justify="right", no_wrap=True)
    table.add_column("layers", overflow="fold")
    for text in _headings(objective):
        table.add_column(heading(text, width), justify="right", no_wrap=True)
    for candidate in (found.best, *found.alternatives):
        table.add_row(*_cells(candidate, found.best, objective))
    return table


def source_line(plan: Plan, inventory: Inventory, predicted: Prediction) -> str:
    """Return a line about the source of the seconds of devices and links."""
    sixteen_bit = predicted.workload.numerics.sixteen_bit
    sources = {
        inventory.pace(each, sixteen_bit).source for each in set(devices_used(plan, inventory))
    }
    found = [_source(each) for each in sorted(sources)]
    links = "links as listed" if inventory.links else "links assumed"
    return f"source of the seconds: {', '.join(found)}; {links}"


def _work(predicted: Prediction) -> str:
    work = predicted.workload
    size = f"{work.micro_batch} x {count(work.sequence_length, 'token')}"
    if not work.training:
        return f"reading {count(work.micro_batches, 'batch', 'es')} of prompts of {size}"
    copies = f" on each of {predicted.replicas} replicas" if predicted.replicas > 1 else ""
    return f"step of {count(work.micro_batches, 'micro-batch', 'es')} of {size}{copies}"


def _rates_and_sources(plan: Plan, inventory: Inventory, predicted: Prediction) -> list[str]:
    return [_rates(predicted), source_line(plan, inventory, predicted)]


def _rates(predicted: Prediction) -> str:
    line = f"{predicted.tokens_per_second:,.0f} tokens/s"
    if not predicted.workload.training:
        return line
    bubble = predicted.timeline.bubble
    mean = sum(bubble) / len(bubble)
    worst = bubble.index(max(bubble))
    return (
        f"{line}; bubble {mean:.1%}: the part of the step that a stage waits, on average; stage "
        f"{worst} waits most, {bubble[worst]:.1%}"
    )


def _against(planned: float, even: float) -> str:
    if planned == even:
        return ", the same as with even layers"
    return f", with even layers {seconds(even)} ({even / planned:.2f} x as long)"


def _overfull(plan: Plan, inventory: Inventory, even: Prediction) -> str:
    """Return how far even layers, with nothing recomputed, exceed the memory; empty if they fit."""
    devices = iter(devices_used(plan, inventory))
    fullest = max(
        need.total / min(next(devices).memory_bytes for _ in range(plan.replicas))
        for need in even.rank_bytes
    )
    if fullest <= 1:
        return ""
    return f"; even layers do not fit: they need {fullest:.2f} x the memory of a device"


def _source(source: str) -> str:
    if source == "counted":
        return "counted from FLOPs and bytes, not measured"
    if source.startswith("data sheet"):
        return f"{source} at {EFFICIENCY:.0%} of its peak, not measured"
    return source


def _cells(candidate: Candidate, best: Candidate, objective: str) -> list[str]:
    shape = candidate.shape
    layers = repeated(candidate.layers)
    if any(candidate.recomputed):
        layers += f", recompute {repeated(candidate.recomputed)}"
    values = {
        "step": f"{candidate.seconds:.4g}",
        "tokens": f"{-candidate.value:,.0f}",
        "memory": f"{candidate.fullness:.1%}",
    }
    others = [values[name] for name in _others(objective)]
    sizes = (shape.stages, shape.gang, shape.replicas, shape.micro_batch)
    return [*map(str, sizes), layers, values[objective], _times(candidate, best), *others]


def _headings(objective: str) -> list[str]:
    return [_VALUES[objective], _RATIO, *(_VALUES[name] for name in _others(objective))]


def _others(objective: str) -> list[str]:
    return [name for name in ("step", "memory") if name != objective]


def _times(candidate: Candidate, best: Candidate) -> str:
    """Return the value divided by the value of the best plan."""
    return f"{candidate.value / best.value:.3f}" if best.value else ""
