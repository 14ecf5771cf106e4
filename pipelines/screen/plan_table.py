"""A plan on one screen: who holds what, what it needs, how long it takes against an even split."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from rich.bar import Bar
from rich.box import SIMPLE_HEAD
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
from pipelines.screen.words import count, numbers, ranged, span

MANY = 24
"""With more ranks than this, those of a gang that hold alike share a row."""

_BAR_WIDTH = 8
_TIGHT = 0.9


def plan_summary(
    config: ModelConfig, plan: Plan, inventory: Inventory, workload: Workload
) -> RenderableType:
    """Return a plan with its prediction beside that of an even split."""
    return plan_picture(
        config,
        plan,
        inventory,
        predict(config, plan, inventory, workload),
        predict(config, even_layers(plan), inventory, workload),
    )


def plan_picture(
    config: ModelConfig, plan: Plan, inventory: Inventory, predicted: Prediction, even: Prediction
) -> RenderableType:
    """Return the table, and below it what a person would ask next."""
    lines = comparison(plan, inventory, predicted, even)
    heads = [stop - start for start, stop in (rank.kv_heads for rank in plan.stages[0].ranks)]
    explained = explain_heads(config, heads)
    lines += [explained] if explained else []
    return Group(plan_table(config, plan, inventory, predicted), Text("\n".join(lines)))


def plan_line(plan: Plan) -> str:
    """Return the layers of each stage in one line."""
    cuts = " | ".join(" + ".join(span(*run) for run in stage.runs) for stage in plan.stages)
    return f"{_shape(plan)}, layers {cuts}"


def plan_table(
    config: ModelConfig,
    plan: Plan,
    inventory: Inventory,
    predicted: Prediction,
    brief: bool | None = None,
) -> Table:
    """Return one row per rank; where ``brief``, one per ranks of a gang that hold alike."""
    table = Table(title=_title(config, plan), box=SIMPLE_HEAD, padding=0)
    table.add_column("stage", justify="right", no_wrap=True)
    table.add_column("rank", justify="right", no_wrap=True)
    replicas = f"\nx {plan.replicas} replicas" if plan.replicas > 1 else ""
    table.add_column(f"device{replicas}", overflow="fold", min_width=12)
    table.add_column("layers", no_wrap=True)
    table.add_column("heads\n(kv)", no_wrap=True)
    table.add_column(_width_heading(config), overflow="fold", min_width=7)
    table.add_column("memory\nGB", justify="right", no_wrap=True)
    table.add_column("time\ns", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, width=_BAR_WIDTH)
    brief = plan.ranks > MANY if brief is None else brief
    for row in _rows(config, plan, inventory, brief):
        table.add_row(
            str(row.stage) if row.first else "",
            row.numbers,
            escape(row.devices),
            _layers(config, row),
            _heads(config, row),
            _width(config, row),
            _memory(inventory, predicted, row),
            *_time(predicted, row),
            end_section=row.last and plan.gang_size > 1 and not brief,
        )
    return table


@dataclass(frozen=True, slots=True)
class _Row:
    """Neighbours of a gang that hold alike, and what each holds."""

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
        device = inventory.device(plan.rank(seat).device).sort if brief else seat
        return seat.stage, device, share.sizes[0], len(share.experts)

    for _, seats in groupby(plan.seats.of_replica(0), alike):
        row = tuple(seats)
        yield _Row(plan, row, tuple(plan.share(seat) for seat in row))


def _width_heading(config: ModelConfig) -> str:
    if config.moe is None:
        return "ffn"
    return "experts\n+shared" if config.shared_size else "experts"


def _title(config: ModelConfig, plan: Plan) -> str:
    parts = [count(config.layers, "layer")]
    if config.moe is not None:
        dense = len(config.moe.dense_layers)
        parts += [f"{dense} of them dense"] * (dense > 0)
        parts += [f"{config.moe.experts} experts top-{config.moe.top_k}"]
        parts += [f"shared {config.shared_size} wide"] * (config.shared_size > 0)
    return f"{_shape(plan)}: {', '.join(parts)}"


def _shape(plan: Plan) -> str:
    shape = f"{count(len(plan.stages), 'stage')} x {count(plan.gang_size, 'rank')}"
    shape += f" x {plan.replicas} replicas" * (plan.replicas > 1)
    runs = f", {plan.chunks} runs of layers each, {'folded' if plan.folded else 'in a loop'}"
    return shape + runs * (plan.chunks > 1)


def _layers(config: ModelConfig, row: _Row) -> str:
    """Return the layers of a stage, those recomputed, those dense, and the ends it holds."""
    share, stage = row.shares[0], row.plan.stages[row.stage]
    lines = [f"{span(start, stop)} ({stop - start})" for start, stop in share.runs]
    if stage.recompute:
        lines.append(f"again {numbers(stage.recompute)}")
    dense = tuple(n for n in share.layer_numbers if config.moe and not config.has_experts(n))
    if dense:
        columns = ranged(each.ffn[1] - each.ffn[0] for each in row.shares)
        lines.append(f"{numbers(dense)}: ffn {columns}")
    lines += ["+embedding"] * share.embedding + ["+head"] * share.head
    held = [each.vocabulary for each in row.shares]
    if (share.embedding or share.head) and share.vocabulary is not None:
        lines.append(f"rows {ranged(each[1] - each[0] for each in held if each)}")
    return "\n".join(lines)


def _heads(config: ModelConfig, row: _Row) -> str:
    kv_heads = [share.kv_heads[1] - share.kv_heads[0] for share in row.shares]
    return f"{ranged(each * config.heads_per_kv for each in kv_heads)} ({ranged(kv_heads)})"


def _width(config: ModelConfig, row: _Row) -> str:
    """Return columns, or experts and below them the columns of the shared one; * where placed."""
    if config.moe is None:
        return ranged(share.ffn[1] - share.ffn[0] for share in row.shares)
    held = [len(share.experts) for share in row.shares]
    text = numbers(row.shares[0].experts) if row.alone else f"{ranged(held)} each"
    text += " *" if row.plan.stages[row.stage].placement else ""
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
    style = "red" if need > have else "yellow" if need > _TIGHT * have else ""
    return Text(f"{need / 1e9:.1f}/{have / 1e9:.1f}", style=style)


def _time(predicted: Prediction, row: _Row) -> tuple[Text, Bar | str]:
    if not row.first:
        return Text(""), ""
    seconds, slowest = predicted.stage_seconds[row.stage], predicted.slowest_seconds
    colour = "yellow" if seconds == slowest else "green"
    return Text(f"{seconds:.3g}"), Bar(slowest, 0, seconds, width=_BAR_WIDTH, color=colour)
