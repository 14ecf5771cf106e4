"""A plan as an HTML page: the holdings of each rank, memory against limits, a step over time.

The page is one file that fetches nothing. The pictures are SVG written here, not by a plotting
library: at 12 stages of 4 ranks, 52 layers and 16 experts they need cells with marks inside,
hatching, and text that is omitted if it does not fit, which chart libraries do not draw. A page has
some hundred kilobytes, while plotly's script alone has five megabytes. The page is sharp at any
zoom and readable without scripts; scripts only show hints at once and zoom the step.
"""

from collections.abc import Iterator
from html import escape
from pathlib import Path

from moe.config.model import ModelConfig
from moe.config.tensors import parameters
from moe.errors import PlanError
from moe.planning.devices.inventory import Inventory
from moe.planning.plan.plan import Plan
from moe.planning.prediction.predict import Prediction
from pipelines.screen.page.document import document, own, write_document
from pipelines.screen.page.holdings import holdings, placed_otherwise
from pipelines.screen.page.memory import limits, memory
from pipelines.screen.page.phrases import TIGHT, count, fullness, seconds, short
from pipelines.screen.page.step import Step, played, predicted_step
from pipelines.screen.page.svg import element
from pipelines.screen.page.table import Card, cards, section
from pipelines.screen.page.timeline import timeline
from pipelines.screen.words import gigabytes

_TIMES = " \N{MULTIPLICATION SIGN} "


def write_page(
    path: Path,
    config: ModelConfig,
    plan: Plan,
    inventory: Inventory,
    prediction: Prediction,
    even: Prediction | None,
) -> None:
    """Write the page; ``even`` is the prediction for the same gangs with even layers, if any.

    An existing page is replaced atomically: readers see the old or the new page.
    """
    write_document(path, draw_page(config, plan, inventory, prediction, even), PlanError)


def draw_page(
    config: ModelConfig,
    plan: Plan,
    inventory: Inventory,
    prediction: Prediction,
    even: Prediction | None,
) -> str:
    """Return the page as HTML."""
    room = limits(plan, inventory)
    figures = [*_speed(prediction), _fullest(plan, prediction, room), _gain(prediction, even, room)]
    return document(
        _title(config, plan),
        ["style.css"],
        [
            f"<p>{escape(_work(plan, prediction))}</p>",
            cards(figures),
            *section("Who holds what", _about_holdings(plan)),
            holdings(config, plan, inventory),
            *_placed(plan),
            *section("Memory", "What each rank needs at its peak, in GB, by what it is for."),
            memory(plan, inventory, prediction.rank_bytes),
            *section("One step", _about_timeline(prediction, even)),
            timeline(_steps(prediction, even)),
            '<div id="told"></div>',
            *(element("script", own(name)) for name in ("hints.js", "zoom.js")),
        ],
    )


def _steps(prediction: Prediction, even: Prediction | None) -> list[Step]:
    """Return the step of the plan and, if there is one, that of even layers."""
    planned = predicted_step("planned", prediction)
    return [planned] if even is None else [planned, predicted_step("even layers", even)]


def _title(config: ModelConfig, plan: Plan) -> str:
    parts = [f"{config.family} {short(parameters(config))}", count(config.layers, "layer")]
    if config.moe is not None:
        parts.append(config.moe.spoken)
    shape = [count(len(plan.stages), "stage"), count(plan.gang_size, "rank")]
    if plan.replicas > 1:
        shape.append(count(plan.replicas, "replica"))
    title = f"{', '.join(parts)} on {_TIMES.join(shape)}"
    return f"{title}, {plan.chunks} spans of layers a stage" if plan.chunks > 1 else title


def _work(plan: Plan, prediction: Prediction) -> str:
    workload = prediction.workload
    each = " for each replica" if plan.replicas > 1 else ""
    batches = count(workload.micro_batches, "micro-batch", "es")
    sequences = f"{count(workload.micro_batch, 'sequence')} of {workload.sequence_length:,} tokens"
    parts = [
        count(len(plan.seats), "device"),
        f"{batches}{each}, each of {sequences}",
    ]
    if not workload.training:
        return ", ".join([*parts, "serving: forward only"])
    zero = f"ZeRO {workload.zero}" if plan.replicas > 1 else "one replica"
    return ", ".join(
        [*parts, f"schedule {workload.schedule}", f"numerics {workload.numerics.name}", zero]
    )


def _speed(prediction: Prediction) -> Iterator[Card]:
    """Yield the step, the tokens, the slowest stage, the bubble."""
    workload, devices = prediction.workload, len(prediction.rank_bytes) * prediction.replicas
    step, tokens = prediction.step_seconds, prediction.tokens_per_second
    stage = prediction.stage_seconds.index(prediction.slowest_seconds)
    line = played(prediction)
    bubbles = line.bubble
    worst = bubbles.index(max(bubbles))
    per_step = workload.tokens * workload.micro_batches * prediction.replicas
    yield "predicted step", seconds(step), f"{short(per_step)} tokens", ""
    yield "tokens per second", short(tokens), f"{short(tokens / devices)} for each device", ""
    slowest = f"{seconds(prediction.slowest_seconds)} for a micro-batch"
    yield "slowest stage", f"stage {stage}", slowest, ""
    mean = sum(bubbles) / len(bubbles)
    most = f"most on stage {worst}: {bubbles[worst]:.1%}"
    yield "bubble, mean of stages", f"{mean:.1%}", most, ""


def _fullest(plan: Plan, prediction: Prediction, room: list[int]) -> Card:
    needed = [each.total for each in prediction.rank_bytes]
    rank = max(range(len(needed)), key=lambda number: needed[number] / room[number])
    full = needed[rank] / room[rank]
    about = f"rank {rank}: {gigabytes(needed[rank])} of {gigabytes(room[rank])} GB"
    state = "bad" if full > 1 else "tight" if full > TIGHT else ""
    about += {"bad": ", too much", "tight": ", nearly full", "": ""}[state]
    return "fullest device", fullness(needed[rank], room[rank]), about, state


def _gain(prediction: Prediction, even: Prediction | None, room: list[int]) -> Card:
    heading = "against even layers"
    if even is None:
        return heading, "not compared", "", ""
    over = sum(each.total > limit for each, limit in zip(even.rank_bytes, room, strict=True))
    gain = even.step_seconds / prediction.step_seconds
    about = f"even layers take {seconds(even.step_seconds)}" if gain != 1 else "the same"
    about += f", {count(over, 'rank')} over their memory" if over else ""
    return heading, f"{gain:.2f}{_TIMES}as fast", about, ""


def _about_holdings(plan: Plan) -> str:
    about = "A row is a rank, a column a layer."
    if plan.replicas > 1:
        about += (
            f" All {plan.replicas} replicas hold the same; the devices of the first are named, "
            "those of the others in the hover text."
        )
    return about


def _placed(plan: Plan) -> Iterator[str]:
    listed = placed_otherwise(plan)
    if listed:
        lines = "".join(f"<li>{escape(each)}</li>" for each in listed)
        heading = f"{count(len(listed), 'layer')} with a different expert layout"
        yield f"<details open><summary>{heading}</summary><ul>{lines}</ul></details>"


def _about_timeline(prediction: Prediction, even: Prediction | None) -> str:
    about = (
        "A number is a micro-batch; its piece includes the messages it waits for. Grey is the "
        "bubble: the part of the step, before the optimiser, in which a stage waits. The dashed "
        "line is the end of the step. Drag to zoom, double-click to see all."
    )
    if even is None:
        return about
    saved = even.step_seconds - prediction.step_seconds
    if saved <= 0:
        return f"{about} Even layers take no longer."
    return f"{about} The plan saves {seconds(saved)} of {seconds(even.step_seconds)}."
