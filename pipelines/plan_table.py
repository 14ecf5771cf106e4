"""A plan on one screen: who holds what, what it needs, how long it takes against an even split."""

from rich.bar import Bar
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from moe.config.model import ModelConfig
from moe.config.share import Share, shared_span
from moe.planning.costs import Workload
from moe.planning.inventory import Inventory
from moe.planning.make import even_layers
from moe.planning.plan import Plan
from moe.planning.predict import Prediction, predict

_BAR_WIDTH = 10
_TIGHT = 0.9


def plan_summary(
    config: ModelConfig, plan: Plan, inventory: Inventory, workload: Workload
) -> Table:
    """Return the table of a plan with its prediction beside that of an even split."""
    return plan_table(
        config,
        plan,
        inventory,
        predict(config, plan, inventory, workload),
        predict(config, even_layers(plan), inventory, workload),
    )


def plan_line(plan: Plan) -> str:
    """Return the layers of each stage in one line."""
    cuts = " | ".join(_span(*stage.layers) for stage in plan.stages)
    shape = f"{_count(len(plan.stages), 'stage')} x {_count(plan.gang_size, 'rank')}"
    return f"{shape}, layers {cuts}"


def plan_table(
    config: ModelConfig, plan: Plan, inventory: Inventory, predicted: Prediction, even: Prediction
) -> Table:
    """Return one row per rank; ``even`` is the prediction for the same gangs with layers even."""
    table = Table(
        title=_title(config, plan),
        caption=_caption(predicted, even),
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=0,
    )
    table.add_column("stage", justify="right", no_wrap=True)
    table.add_column("rank", justify="right", no_wrap=True)
    table.add_column("device", overflow="fold", min_width=12)
    table.add_column("layers", no_wrap=True)
    table.add_column("heads\n(kv)", no_wrap=True)
    table.add_column(_width_heading(config), overflow="fold", min_width=7)
    table.add_column("memory\nGB", justify="right", no_wrap=True)
    table.add_column("time\ns", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, width=_BAR_WIDTH)
    for rank in range(plan.ranks):
        table.add_row(
            *_holds(config, plan, rank),
            _memory(plan, inventory, predicted, rank),
            *_time(plan, predicted, rank),
            end_section=(rank + 1) % plan.gang_size == 0 and plan.gang_size > 1,
        )
    return table


def _width_heading(config: ModelConfig) -> str:
    if config.moe is None:
        return "ffn"
    return "experts\n+shared" if config.shared_size else "experts"


def _title(config: ModelConfig, plan: Plan) -> str:
    stages, gang = len(plan.stages), plan.gang_size
    shape = f"{_count(stages, 'stage')} x {_count(gang, 'rank')}"
    parts = [_count(config.layers, "layer")]
    if config.moe is not None:
        dense = len(config.moe.dense_layers)
        parts += [f"{dense} of them dense"] * (dense > 0)
        parts += [f"{config.moe.experts} experts top-{config.moe.top_k}"]
        parts += [f"shared {config.shared_size} wide"] * (config.shared_size > 0)
    return f"{shape}: {', '.join(parts)}"


def _caption(predicted: Prediction, even: Prediction) -> str:
    slowest, step = predicted.slowest_seconds, predicted.step_seconds
    return (
        f"slowest stage: {slowest:.3g} s a micro-batch{_against(slowest, even.slowest_seconds)}\n"
        f"step of {_count(predicted.micro_batches, 'micro-batch', 'es')}: "
        f"{step:.3g} s{_against(step, even.step_seconds)}\n"
        "counted from FLOPs and bytes, not measured; without communication"
    )


def _against(planned: float, even: float) -> str:
    if planned == even:
        return ", as with even layers"
    return f", with even layers {even:.3g} s ({even / planned:.2f} x)"


def _holds(config: ModelConfig, plan: Plan, rank: int) -> tuple[str, str, str, str, str, str]:
    """Return stage (on the first of its gang), rank, device, layers, heads, feed-forward."""
    share = plan.share(rank)
    stage, member = divmod(rank, plan.gang_size)
    start, stop = share.layers
    dense = tuple(n for n in share.layer_numbers if config.moe and not config.has_experts(n))
    layers = [f"{_span(start, stop)} ({stop - start})"]
    columns = share.ffn[1] - share.ffn[0]
    layers += [f"{_numbers(dense)}: ffn {columns}"] * bool(dense)
    layers += ["+embedding"] * share.embedding + ["+head"] * share.head
    kv_heads = share.kv_heads[1] - share.kv_heads[0]
    return (
        str(stage) if member == 0 else "",
        str(rank),
        escape(plan.rank(rank).device),
        "\n".join(layers),
        f"{kv_heads * config.heads_per_kv} ({kv_heads})",
        _experts(config, share) if config.moe else str(columns),
    )


def _experts(config: ModelConfig, share: Share) -> str:
    """Return the numbers of the experts held, and below them the columns of the shared one."""
    start, stop = shared_span(config, share.ffn)
    return _numbers(share.experts) + (f"\n+{stop - start}" if config.shared_size else "")


def _memory(plan: Plan, inventory: Inventory, predicted: Prediction, rank: int) -> Text:
    need = predicted.rank_bytes[rank].total
    have = inventory.device(plan.rank(rank).device).memory_bytes
    style = "red" if need > have else "yellow" if need > _TIGHT * have else ""
    return Text(f"{need / 1e9:.1f}/{have / 1e9:.1f}", style=style)


def _time(plan: Plan, predicted: Prediction, rank: int) -> tuple[Text, Bar | str]:
    stage, member = divmod(rank, plan.gang_size)
    if member:
        return Text(""), ""
    seconds, slowest = predicted.stage_seconds[stage], predicted.slowest_seconds
    colour = "yellow" if seconds == slowest else "green"
    return Text(f"{seconds:.3g}"), Bar(slowest, 0, seconds, width=_BAR_WIDTH, color=colour)


def _numbers(numbers: tuple[int, ...]) -> str:
    """Show numbers of experts or layers, runs of them by their ends."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number:
            runs[-1][1] = number + 1
        else:
            runs.append([number, number + 1])
    return ", ".join(_span(start, stop) for start, stop in runs)


def _span(start: int, stop: int) -> str:
    return str(start) if stop - start == 1 else f"{start}-{stop - 1}"


def _count(count: int, noun: str, plural: str = "s") -> str:
    return f"{count} {noun}{plural if count != 1 else ''}"
