"""The plan of a run: who holds what, a step as predicted and as traced, memory measured."""

from collections.abc import Callable, Iterator, Sequence
from statistics import median

from moe.config.model import ModelConfig
from moe.planning.devices.inventory import CPU
from pipelines.reporting.planned import Planned
from pipelines.reporting.recorded import Recorded
from pipelines.screen.page.holdings import holdings
from pipelines.screen.page.lanes import Lane, Piece, lanes, legend
from pipelines.screen.page.phrases import count, seconds, short
from pipelines.screen.page.step import Step, predicted_step, traced_step
from pipelines.screen.page.svg import element
from pipelines.screen.page.table import missing, section, table
from pipelines.screen.page.timeline import timeline
from pipelines.screen.words import gigabytes

_MOST_BARS = 64
"""Ranks whose memory is drawn each; of more, only the fullest of each stage."""


def plan(run: Recorded, found: Planned | str) -> Iterator[str]:
    """Yield the section; ``found`` is a sentence where no plan is known."""
    if isinstance(found, str):
        yield from section("Plan")
        yield missing(found)
        return
    about = f"Of the checkpoint {found.checkpoint.name}. A row is a rank, a column a layer."
    yield from section("Plan", f"{shape_of(found)}. {about}")
    yield holdings(found.config, found.plan, found.inventory)
    yield from _step(run, found)
    yield from _memory(run, found)


def shape_of(found: Planned) -> str:
    """Return the model and the plan in one line."""
    config, shape = found.config, found.plan
    parts = [count(len(shape.stages), "stage"), count(shape.gang_size, "rank") + " each"]
    if shape.replicas > 1:
        parts.append(count(shape.replicas, "replica"))
    return f"{model_of(config)} on {', '.join(parts)}"


def model_of(config: ModelConfig) -> str:
    """Return the family and the sizes of a model in a few words."""
    experts = "" if config.moe is None else f", {config.moe.spoken}"
    return f"{config.family}, {count(config.layers, 'layer')}{experts}"


def _step(run: Recorded, found: Planned) -> Iterator[str]:
    yield element("h3", "One step, predicted and measured")
    shown: list[Step] = []
    stages = len(found.plan.stages)
    if found.prediction is not None:
        shown.append(predicted_step("predicted", found.prediction))
    if run.timeline is not None and len(run.timeline[1]) == stages:
        number, events = run.timeline
        shown.append(traced_step(f"measured, step {number}", events, 0.0))
    if found.why_not:
        yield missing(found.why_not)
    if run.timeline is None:
        yield missing(
            "No measured timeline: monitor.every in the run file has one rank of each stage note, "
            "every so many steps, when it worked on what."
        )
    elif len(run.timeline[1]) != stages:
        yield missing(
            f"The newest traced step ran on {count(len(run.timeline[1]), 'stage')}, the plan of "
            f"the newest checkpoint has {stages}, so it is not drawn."
        )
    if found.prediction is not None:
        yield element("p", _about_step(found))
    if shown:
        yield timeline(shown)
    if found.prediction is not None:
        yield table("A step", ("", "predicted", "measured"), _compared(run, found))


def _about_step(found: Planned) -> str:
    source = (
        "from the seconds of each stage in the plan, which the planner had from what it measured"
        if found.scaled
        else "from counted work, for the plan has no seconds"
    )
    return (
        f"The simulator plays the schedule {source}. A number is a micro-batch. Predicted pieces "
        "include the messages they wait for, measured ones do not; those are the first replica's, "
        "and end before gradients are summed and weights updated."
    )


def _compared(run: Recorded, found: Planned) -> Iterator[tuple[str, str, str]]:
    """Yield the step in numbers; measured ones are medians over the run or its last value."""
    prediction = found.prediction
    assert prediction is not None
    middle = _median(run, "step_seconds")
    speed = _median(run, "tokens_per_second")
    yield "duration", seconds(prediction.step_seconds), _shown(middle, seconds)
    yield "tokens per second", short(prediction.tokens_per_second), _shown(speed, short)
    bubbles = prediction.timeline.bubble
    measured = _median(run, "bubble")
    yield "bubble", f"{sum(bubbles) / len(bubbles):.1%}", _shown(measured, "{:.1%}".format)


def _shown(value: float | None, show: Callable[[float], str]) -> str:
    return "not recorded" if value is None else show(value)


def _median(run: Recorded, name: str) -> float | None:
    """Return the median of a number over the run, without its first point, which warms up."""
    curve = run.curves.get(name)
    means = [] if curve is None else [each.mean for each in curve.found]
    return median(means[1:] or means) if means else None


def _memory(run: Recorded, found: Planned) -> Iterator[str]:
    yield element("h3", "Memory, predicted and measured")
    predicted, measured = found.predicted_bytes, run.peaks
    if not predicted:
        yield missing("No memory is predicted, for the reason above.")
        return
    if len(measured) != len(predicted):
        yield missing(
            f"The last step tells the memory of {count(len(measured), 'rank')}, the plan of the "
            f"newest checkpoint has {len(predicted)}: the plan has changed since, so the two are "
            "not compared."
        )
        measured = ()
    ranks = _drawn(found, predicted, measured)
    rows = [_bar(rank, found, predicted, measured) for rank in ranks]
    most = max([*predicted, *measured]) / 1e9
    left_out = "" if len(ranks) == len(predicted) else " Of each stage only the fullest rank."
    yield element("p", f"The most that each rank has held, in GB.{left_out}")
    marks = [("predicted", "predicted"), *([("measured", "measured")] if measured else [])]
    held = any(_reserved(rank, found) for rank in ranks)
    yield legend([*marks, *([("held", "reserved by the plan")] if held else [])])
    drawn = lanes(rows, (0.0, most * 1.02), "GB", "Memory of ranks, predicted and measured")
    yield element("div", drawn, class_="bars")
    names = ("rank", "device", "predicted, GB", "measured, GB", "measured over predicted")
    rows_ = [_row(rank, found, predicted, measured) for rank in ranks]
    summary = element("summary", "as a table")
    yield element("details", summary, table("Memory of ranks", names, rows_))


def _drawn(found: Planned, predicted: Sequence[int], measured: Sequence[float]) -> list[int]:
    """Return the ranks to draw."""
    if len(predicted) <= _MOST_BARS:
        return list(range(len(predicted)))
    size, seats = measured or predicted, found.plan.seats
    by_stage = (
        [
            seats.rank(seat)
            for replica in range(seats.replicas)
            for seat in seats.of_stage(stage, replica)
        ]
        for stage in range(seats.stages)
    )
    return [max(ranks, key=lambda rank: size[rank]) for ranks in by_stage]


def _device(rank: int, found: Planned) -> str:
    seat = found.plan.seats.seat(rank)
    return found.plan.rank(seat).devices[seat.replica]


def _reserved(rank: int, found: Planned) -> int:
    """Return the bytes that the plan reserves for a rank on a CPU; 0 of a GPU."""
    planned = found.plan.rank(found.plan.seats.seat(rank))
    return planned.memory_bytes if planned.kind == CPU else 0


def _bar(rank: int, found: Planned, predicted: Sequence[int], measured: Sequence[float]) -> Lane:
    name = f"rank {rank}, {_device(rank, found)}"
    size = predicted[rank] / 1e9
    pieces = [Piece(0.0, size, "predicted", f"{name}\npredicted {size:.2f} GB")]
    if measured:
        size = measured[rank] / 1e9
        pieces.append(Piece(0.0, size, "measured", f"{name}\nmeasured {size:.2f} GB"))
    limit = _reserved(rank, found) / 1e9
    if limit:
        pieces.append(Piece(limit, limit, "held", f"{name}\nreserved {limit:.2f} GB"))
    return Lane(name, pieces)


def _row(
    rank: int, found: Planned, predicted: Sequence[int], measured: Sequence[float]
) -> tuple[str, ...]:
    seen = gigabytes(measured[rank]) if measured else "not compared"
    part = f"{measured[rank] / predicted[rank]:.2f}" if measured else ""
    return str(rank), _device(rank, found), gigabytes(predicted[rank]), seen, part
