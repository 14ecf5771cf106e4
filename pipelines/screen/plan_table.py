"""A plan on one screen: what each rank holds and needs, and the step time against an even split."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from rich.bar import Bar
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from moe.config.model import ModelConfig
from moe.config.share import Share, shared_span
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import Inventory
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat
from moe.planning.prediction.predict import Prediction, predict
from moe.planning.search.make import even_layers
from moe.planning.stages.widths import explain_heads
from pipelines.screen.comparison import comparison
from pipelines.screen.grid import NARROW, grid, heading
from pipelines.screen.page.phrases import TIGHT
from pipelines.screen.words import compared_gigabytes, count, numbers, ranged, span

MANY = 24
"""With more ranks than this, ranks of a gang that hold equal shares are one row."""

_BAR_WIDTH, _WIDEST_BAR = 6, 40
_DEVICE_WIDTH = 14


def plan_summary(
    config: ModelConfig, plan: Plan, inventory: Inventory, workload: Workload, width: int = NARROW
) -> RenderableType:
    """Return a plan with its prediction and the prediction of an even split."""
    return plan_picture(
        config,
        plan,
        inventory,
        predict(config, plan, inventory, workload),
        predict(config, even_layers(plan), inventory, workload),
        width,
    )


def plan_picture(
    config: ModelConfig,
    plan: Plan,
    inventory: Inventory,
    predicted: Prediction,
    even: Prediction,
    width: int = NARROW,
) -> RenderableType:
    """Return the table for a terminal of ``width`` columns, and the lines below it."""
    lines = comparison(plan, inventory, predicted, even)
    heads = [stop - start for start, stop in (rank.kv_heads for rank in plan.stages[0].ranks)]
    explained = explain_heads(config, heads)
    lines += [explained] if explained else []
    table = plan_table(config, plan, inventory, predicted, width=width)
    return Group(table, Text("\n".join(lines)))


def plan_line(plan: Plan) -> str:
    """Return the layers of each stage in one line."""
    cuts = " | ".join(" + ".join(span(*run) for run in stage.spans) for stage in plan.stages)
    return f"{_shape(plan)}, layers {cuts}"


def plan_table(
    config: ModelConfig,
    plan: Plan,
    inventory: Inventory,
    predicted: Prediction,
    brief: bool | None = None,
    width: int = NARROW,
) -> Table:
    """Return one row per rank; with ``brief``, equal neighbours of a gang are one row."""
    table = grid(width, _title(config, plan))
    bar = min(_WIDEST_BAR, _BAR_WIDTH + max(0, width - NARROW) // 2)
    table.add_column("stage", justify="right", no_wrap=True)
    table.add_column("rank", justify="right", no_wrap=True)
    replicas = f"\nx {plan.replicas} replicas" if plan.replicas > 1 else ""
    brief = plan.ranks > MANY if brief is None else brief
    rows = list(_rows(config, plan, inventory, brief))
    named = min(_DEVICE_WIDTH, max(len(row.devices) for row in rows))
    table.add_column(f"device{replicas}", overflow="fold", min_width=named)
    table.add_column("layers", no_wrap=True)
    table.add_column(heading("heads\n(kv)", width), no_wrap=True)
    table.add_column(heading(_width_heading(config), width), overflow="fold", min_width=7)
    table.add_column(heading("memory\nGB", width), justify="right", no_wrap=True)
    table.add_column(heading("time\ns", width), justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, width=bar)
    for row in rows:
        table.add_row(
            str(row.stage) if row.first else "",
            row.numbers,
            escape(row.devices),
            _layers(config, row),
            _heads(config, row),
            _width(config, row),
            _memory(inventory, predicted, row),
            *_time(predicted, row, bar),
            end_section=row.last and plan.gang_size > 1 and not brief,
        )
    return table


@dataclass(frozen=True, slots=True)
class _Row:
    """Neighbours of a gang with equal shares, and the share of each."""

    plan: Plan
    seats: tuple[Seat, ...]
    shares: tuple[Share, ...]

    @property
    def stage(self) -> int:
        return self.seats[0].stage

    @property
    def first(self) -> bool:
        return self.seats[0].member == 0

    @property
    def last(self) -> bool:
        return self.seats[-1].member == self.plan.gang_size - 1

    @property
    def alone(self) -> bool:
        return len(self.seats) == 1

    @property
    def numbers(self) -> str:
        first, last = (self.plan.seats.rank(seat) for seat in (self.seats[0], self.seats[-1]))
        return span(first, last + 1)

    @property
    def devices(self) -> str:
        """The device of the first replica, or the first and the last of several."""
        first, last = (self.plan.rank(seat).device for seat in (self.seats[0], self.seats[-1]))
        if self.alone:
            return first
        node = first.rpartition("/")[0]
        own = last.removeprefix(f"{node}/") if node else last
        return f"{first} … {own}"


def _rows(config: ModelConfig, plan: Plan, inventory: Inventory, brief: bool) -> Iterable[_Row]:
    def alike(seat: Seat) -> object:
        share = plan.share(seat)
        device = inventory.device(plan.rank(seat).device).traits if brief else seat
        return seat.stage, device, share.sizes[0], len(share.experts)

    for _, seats in groupby(plan.seats.of_replica(0), alike):
        row = tuple(seats)
        yield _Row(plan, row, tuple(plan.share(seat) for seat in row))


def _width_heading(config: ModelConfig) -> str:
    if not config.placed_experts:
        return "ffn"
    return "experts\n+shared" if config.shared_size else "experts"


def _title(config: ModelConfig, plan: Plan) -> str:
    parts = [count(config.layers, "layer")]
    if config.moe is not None:
        dense = len(config.moe.dense_layers)
        if dense:
            parts.append(f"{dense} of them dense")
        parts.append(config.moe.spoken)
        if config.shared_size:
            parts.append(f"shared expert of {config.shared_size} columns")
    return f"{_shape(plan)}: {', '.join(parts)}"


def _shape(plan: Plan) -> str:
    shape = f"{count(len(plan.stages), 'stage')} x {count(plan.gang_size, 'rank')}"
    if plan.replicas > 1:
        shape += f" x {plan.replicas} replicas"
    if plan.chunks > 1:
        shape += f", {plan.chunks} spans of layers each, {'folded' if plan.folded else 'in a loop'}"
    return shape


def _layers(config: ModelConfig, row: _Row) -> str:
    """Return the layers of a stage, its recomputed and dense layers, and embedding and head."""
    share, stage = row.shares[0], row.plan.stages[row.stage]
    lines = [f"{span(start, stop)} ({stop - start})" for start, stop in share.spans]
    if stage.recompute:
        lines.append(f"recompute {numbers(stage.recompute)}")
    dense = tuple(n for n in share.layer_numbers if config.moe and not config.has_experts(n))
    if dense:
        columns = ranged(each.ffn[1] - each.ffn[0] for each in row.shares)
        lines.append(f"{numbers(dense)}: ffn {columns}")
    if share.embedding:
        lines.append("embedding")
    if share.head:
        lines.append("LM head")
    held = [each.vocabulary for each in row.shares]
    if (share.embedding or share.head) and share.vocabulary is not None:
        lines.append(f"rows {ranged(each[1] - each[0] for each in held if each)}")
    return "\n".join(lines)


def _heads(config: ModelConfig, row: _Row) -> str:
    kv_heads = [share.kv_heads[1] - share.kv_heads[0] for share in row.shares]
    return f"{ranged(each * config.heads_per_kv for each in kv_heads)} ({ranged(kv_heads)})"


def _width(config: ModelConfig, row: _Row) -> str:
    """Return columns, or experts with the columns of the shared expert; * marks an expert
    layout.
    """
    if not config.placed_experts:
        return ranged(share.ffn[1] - share.ffn[0] for share in row.shares)
    held = [len(share.experts) for share in row.shares]
    text = numbers(row.shares[0].experts) if row.alone else f"{ranged(held)} each"
    if row.plan.stages[row.stage].expert_layout:
        text += " *"
    if not config.shared_size:
        return text
    shared = (shared_span(config, share.ffn) for share in row.shares)
    return f"{text}\n+{ranged(stop - start for start, stop in shared)}"


def _memory(inventory: Inventory, predicted: Prediction, row: _Row) -> Text:
    """Return the bytes of the fullest rank of a row."""
    sizes = [
        (predicted.rank_bytes[row.plan.seats.rank(seat)].total, inventory.device(name).memory_bytes)
        for seat in row.seats
        for name in row.plan.rank(seat).devices
    ]
    need, have = max(sizes, key=lambda each: each[0] / each[1])
    style = "red" if need > have else "yellow" if need > TIGHT * have else ""
    return Text(compared_gigabytes(need, have), style=style)


def _time(predicted: Prediction, row: _Row, width: int) -> tuple[Text, Bar | str]:
    if not row.first:
        return Text(""), ""
    seconds, slowest = predicted.stage_seconds[row.stage], predicted.slowest_seconds
    colour = "yellow" if seconds == slowest else "green"
    return Text(f"{seconds:.3g}"), Bar(slowest, 0, seconds, width=width, color=colour)
