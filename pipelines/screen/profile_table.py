"""The measurements of a machine on one screen, beside the counted times."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from actors.profiling.machine import Found
from actors.profiling.messages import sum_seconds
from moe.planning.devices.links import Link
from moe.planning.devices.pace import Measured, Profile


def profile_table(profile: Profile, link: Link | None, found: Sequence[Found]) -> Table:
    """Return one row per part and size, in milliseconds of a micro-batch."""
    table = Table(
        caption=_caption(profile, link, found),
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=0,
    )
    table.add_column("part", no_wrap=True)
    headings = ("tokens", "forward\nms", "counted", "ratio", "backward\nms", "counted", "ratio")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for part in profile.parts:
        table.add_row(*_row(part))
    return table


def _row(part: Measured) -> tuple[str, ...]:
    tokens = "a step" if part.part == "optimizer" else str(part.tokens)
    return (
        part.part,
        tokens,
        *_pass_columns(part.forward, part.counted_forward),
        *_pass_columns(part.backward, part.counted_backward),
    )


def _pass_columns(seconds: float, counted: float) -> tuple[str, str, str]:
    ratio = f"{seconds / counted:.2f}" if counted else ""
    return _milliseconds(seconds), _milliseconds(counted), ratio


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.1f}" if seconds else ""


def _caption(profile: Profile, link: Link | None, found: Sequence[Found]) -> str:
    rates = profile.rates
    roles = (rates.input_flops_per_second, rates.weight_flops_per_second)
    of_inputs, of_weights = (f"{(each or rates.flops_per_second) / 1e9:.4g}" for each in roles)
    lines = [
        f"{profile.precision}: {rates.flops_per_second / 1e9:.4g} GFLOP/s in products, "
        f"{of_inputs} for gradients of inputs, {of_weights} of weights; "
        f"{rates.bytes_per_second / 1e9:.3g} GB/s in passes over memory"
    ]
    wires = [each.wire for each in found if each.wire is not None]
    if link is not None and wires:
        size, seconds = sum_seconds(wires)
        lines += [
            f"link: {link.bytes_per_second / 1e9:.3g} GB/s each way at once, "
            f"{1e6 * link.latency_seconds:.0f} us",
            f"a sum of {size / 1e6:.3g} MB over two ranks: {1e3 * seconds:.3g} ms, "
            f"by the link {1e3 * link.all_reduce_seconds(size, 2):.3g}",
        ]
    return "\n".join(lines)
