"""The holdings picture: a row for each rank, a column for each layer, experts inside the cells.

A cell is drawn if the rank holds the layer. It has a mark for every expert of the layer, in reading
order; the experts that the rank holds are dark. Replicas hold the same and share a row.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from moe.config.model import ModelConfig
from moe.config.share import Share, shared_span
from moe.planning.devices.inventory import Inventory
from moe.planning.plan.plan import Plan, StagePlan
from moe.planning.plan.seats import Seat, Seats
from pipelines.screen.page.cells import Marks, end_cell, layer_cell, marks, vocabulary
from pipelines.screen.page.phrases import count, numbers, seconds, span
from pipelines.screen.page.svg import (
    PAGE_WIDTH,
    element,
    figure,
    fitted,
    fitted_list,
    hint,
    legend,
    line,
    rect,
    text_width,
    words,
)

_TOP = 60.0
_GAP = 6.0
_ROWS_HIGH = 560.0
_LOWEST_ROW, _HIGHEST_ROW = 20.0, 46.0
_MARGIN = 14.0
_WIDEST_COLUMN = 150.0
_WIDEST_CELL = 60.0
_WIDEST_INSET = 0.8


@dataclass(frozen=True, slots=True)
class _Column:
    """Text beside the layers: for each rank a cell and its hover text."""

    heading: str
    cells: tuple[str, ...]
    hints: tuple[str, ...]

    @property
    def width(self) -> float:
        """Width of the widest text."""
        widest = max(text_width(cell) for cell in (self.heading, *self.cells))
        return min(widest, _WIDEST_COLUMN) + _MARGIN


@dataclass(frozen=True, slots=True)
class _Grid:
    """Positions of rows and columns; the embedding is left of layer 0, the head right of the
    last.
    """

    layers: int
    left: float
    ends: float
    cell: float
    row: float
    seats: Seats

    def layer(self, number: int) -> float:
        """Return the left edge of a layer; the number after the last layer is the head."""
        return self.left + self.ends + 4 + number * self.cell + 4 * (number == self.layers)

    @property
    def inset(self) -> float:
        """Distance between a cell and the edge of its column or row."""
        return min(_WIDEST_INSET, self.cell / 8)

    def top(self, seat: Seat) -> float:
        """Return the upper edge of the row of a rank of the first replica."""
        return _TOP + self.seats.rank(seat) * self.row + seat.stage * _GAP

    @property
    def bottom(self) -> float:
        """The lower edge of the last row."""
        return self.top(self.seats.of_replica(0)[-1]) + self.row

    @property
    def right(self) -> float:
        """The right edge of the head."""
        return self.layer(self.layers) + self.ends


def holdings(config: ModelConfig, plan: Plan, inventory: Inventory) -> str:
    """Return the picture of ranks by layers by experts."""
    shares = [plan.share(seat) for seat in plan.seats.of_replica(0)]
    before = _devices(plan, inventory)
    after = _slices(config, shares)
    stages = _stage_width(plan)
    grid = _grid(config, plan, stages + _widths(before), _widths(after), shares)
    known = marks(config, shares, grid.cell - 2 * grid.inset, grid.row - 2 * grid.inset)
    parts = [known.definitions(), *legend(0, 4, _meanings(config, plan))]
    parts += [_stage(number, stage, grid) for number, stage in enumerate(plan.stages)]
    parts += _ruled(plan, grid)
    parts += _table(before, stages, grid) + _table(after, grid.right + _MARGIN, grid)
    parts += [_row(known, plan, grid, seat) for seat in plan.seats.of_replica(0)]
    height = grid.bottom + 6
    label = f"which of {plan.ranks} ranks holds which of {config.layers} layers"
    return figure("holdings", height, label, parts)


def placed_otherwise(plan: Plan) -> list[str]:
    """Return as text the layers whose expert layout differs from the one in the ranks."""
    return [
        f"layer {placed.layer}: "
        + "; ".join(
            f"rank {plan.seats.rank(seat)} holds {numbers(sorted(experts))}"
            for seat, experts in zip(plan.seats.of_stage(number), placed.experts, strict=True)
        )
        for number, stage in enumerate(plan.stages)
        for placed in stage.expert_layout
    ]


def _grid(
    config: ModelConfig, plan: Plan, before: float, after: float, shares: list[Share]
) -> _Grid:
    """Divide the width beside the text columns among the layers."""
    rows = [vocabulary(config, share) for share in shares if share.embedding or share.head]
    ends = max(text_width(content) for content in (*rows, "embedding")) + 8
    room = PAGE_WIDTH - before - after - _MARGIN - 2 * ends - 8
    cell = min(_WIDEST_CELL, room / config.layers)
    row = max(_LOWEST_ROW, min(_HIGHEST_ROW, _ROWS_HIGH / plan.ranks, 2 * cell))
    return _Grid(config.layers, before, ends, cell, row, plan.seats)


def _widths(columns: Iterable[_Column]) -> float:
    return sum(column.width for column in columns)


def _devices(plan: Plan, inventory: Inventory) -> list[_Column]:
    """Return columns with rank, device and node of the first replica; hover text names the
    others.
    """
    ranks = [rank for stage in plan.stages for rank in stage.ranks]
    others = plan.replicas - 1
    listed = tuple(
        "\n".join(f"replica {replica}: {name}" for replica, name in enumerate(rank.devices))
        for rank in ranks
    )
    more = f" +{others}" if others else ""
    nodes = tuple(inventory.device(rank.device).node for rank in ranks)
    names = tuple(fitted(rank.device, _WIDEST_COLUMN - text_width(more)) + more for rank in ranks)
    return [
        _Column("rank", tuple(map(str, range(plan.ranks))), listed),
        _Column("device (+ replicas)" if others else "device", names, listed),
        _Column("node", nodes, tuple(f"node {node}" for node in nodes)),
    ]


def _slices(config: ModelConfig, shares: list[Share]) -> list[_Column]:
    """Return a column with the sizes of each rank's slice of a layer."""

    def column(heading: str, what: Callable[[Share], str]) -> _Column:
        whole = tuple(what(share) for share in shares)
        return _Column(heading, whole, tuple(f"{heading}: {each}" for each in whole))

    def heads(share: Share) -> str:
        first, last = (bound * config.heads_per_kv for bound in share.kv_heads)
        grouped = f" (kv {span(share.kv_heads)})" if config.heads_per_kv > 1 else ""
        return span((first, last)) + grouped

    columns = [column("heads", heads)]
    if config.placed_experts:
        columns.append(_experts(shares))
    if config.shared_size:
        columns.append(column("shared", lambda share: span(shared_span(config, share.ffn))))
    if not config.placed_experts or (config.moe and config.moe.dense_layers):
        columns.append(column("feed-forward", lambda share: span(share.ffn)))
    return columns


def _experts(shares: list[Share]) -> _Column:
    """Return a column of expert numbers; long lists with gaps are cut, with their count."""
    whole = [numbers(sorted(share.experts)) for share in shares]
    shown = (
        fitted_list(each, _WIDEST_COLUMN, f"({len(share.experts)})")
        for each, share in zip(whole, shares, strict=True)
    )
    return _Column("experts", tuple(shown), tuple(f"experts: {each}" for each in whole))


def _table(columns: list[_Column], left: float, grid: _Grid) -> list[str]:
    parts = []
    for column in columns:
        parts.append(words(left, _TOP - 10, column.heading, class_="heading"))
        seats = grid.seats.of_replica(0)
        for seat, cell, under in zip(seats, column.cells, column.hints, strict=True):
            shown = fitted(cell, column.width - _MARGIN)
            baseline = grid.top(seat) + grid.row / 2 + 4
            named = {"data_column": column.heading}
            parts.append(words(left, baseline, shown, hint(under), **named))
        left += column.width
    return parts


def _stage_words(stage: StagePlan) -> tuple[str, str]:
    held = count(len(stage.layer_numbers), "layer")
    return held, seconds(stage.seconds) if stage.seconds else ""


def _stage_width(plan: Plan) -> float:
    lines = [text for stage in plan.stages for text in _stage_words(stage)]
    return max(text_width(text) for text in (*lines, "stage 00")) + 2 * _MARGIN


def _stage(number: int, stage: StagePlan, grid: _Grid) -> str:
    """Return the band of a stage and its description, in as many lines as fit the rows of its
    ranks.
    """
    top = grid.top(Seat(0, number, 0))
    height = grid.seats.gang * grid.row
    held, time = _stage_words(stage)
    lines = [f"stage {number}", held, time][: max(1, int(height // 15))]
    baseline = top + height / 2 - 7 * (len(lines) - 1) + 4
    shown = [
        words(8, baseline + 14 * place, content, class_="" if place else "strong")
        for place, content in enumerate(lines)
    ]
    runs = " and ".join(map(span, stage.spans))
    hover = f"stage {number}: layers {runs}, {held}, {time or 'not timed'}"
    band = rect(0, top, PAGE_WIDTH, height, hint(hover), class_="band", rx=3)
    return element("g", band, *shown, class_="stage", data_stage=number)


def _ruled(plan: Plan, grid: _Grid) -> list[str]:
    """Return the numbers of layers above the columns, as many as fit, and the names of both
    ends.
    """
    bottom = grid.bottom
    room = text_width(str(grid.layers)) + 5
    steps = (step for step in (1, 2, 5, 10, 20, 50, 100, 200) if step * grid.cell >= room)
    every = next(steps, grid.layers)
    parts = [
        words(grid.left + grid.ends / 2, _TOP - 10, "embedding", class_="heading middle"),
        words(grid.layer(grid.layers) + grid.ends / 2, _TOP - 10, "head", class_="heading middle"),
    ]
    for layer in range(grid.layers):
        left = grid.layer(layer)
        if layer % every == 0:
            parts.append(
                words(left + grid.cell / 2, _TOP - 10, str(layer), class_="heading middle")
            )
        if layer % max(5, every) == 0 and layer:
            parts.append(line(left, _TOP - 4, left, bottom, class_="ruling"))
    first, last = grid.layer(0), grid.layer(grid.layers - 1) + grid.cell
    parts.append(words((first + last) / 2, _TOP - 26, "layers", class_="heading middle"))
    return parts


def _row(known: Marks, plan: Plan, grid: _Grid, seat: Seat) -> str:
    """Return the cells of one rank."""
    share, recomputed = plan.share(seat), plan.stages[seat.stage].recompute
    top = grid.top(seat) + grid.inset
    ends = [("embedding", grid.left)] if share.embedding else []
    if share.head:
        ends.append(("head", grid.layer(grid.layers)))
    parts = [
        end_cell(kind, known.config, (left, top, grid.ends, known.height), share)
        for kind, left in ends
    ]
    for layer in share.layer_numbers:
        place = (grid.layer(layer) + grid.inset, top)
        parts.append(layer_cell(known, place, share, layer, layer in recomputed))
    return element("g", *parts, class_="rank", data_rank=plan.seats.rank(seat))


def _meanings(config: ModelConfig, plan: Plan) -> list[tuple[str, str]]:
    """Return the legend of the classes of cells that occur in the picture."""
    dense = config.moe is None or bool(config.moe.dense_layers)
    listed = [("end", "embedding, head: vocabulary rows")]
    if dense:
        listed.append(("dense", "dense layer"))
    if config.moe is not None:
        listed += [("moe", f"layer with {config.experts} experts:")]
        part = "the rank's columns of it" if config.moe.merged else "held by the rank"
        listed += [("held", part)]
    if config.placed_experts:
        listed += [("free", "held by another rank")]
    if any(stage.recompute for stage in plan.stages):
        listed.append(("again", "recomputed in backward"))
    if any(stage.expert_layout for stage in plan.stages):
        listed.append(("placed", "experts placed otherwise"))
    return listed
