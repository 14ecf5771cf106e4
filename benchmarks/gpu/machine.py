"""``raymoe profile`` on this card, against the rates that a plan takes without a profile."""

from collections.abc import Iterator

from actors.profiling.machine import measure
from actors.profiling.measure import Measuring
from actors.profiling.profile import profile_of
from benchmarks.gpu.layers import olmoe
from benchmarks.gpu.rows import Bar, Row, Setting
from moe.planning.counts.workload import BF16, FLOAT32
from moe.planning.devices.rates import GPUS, Rates

CLOSE = 0.25
"""How far measured rates may be from those of the table of GPUs, relative."""


def part(setting: Setting) -> Iterator[Row]:
    """Yield the rates measured in each precision, and the time of each part of a model."""
    length, seconds = (16, 0.01) if setting.tiny else (4096, 0.5)
    for numerics in (BF16,) if setting.tiny else (BF16, FLOAT32):
        config, quick = olmoe(setting, layers=1), setting.tiny
        asked = Measuring(config, length, (1,), 1, 1, seconds, numerics.name, quick)
        profile = profile_of(asked, measure(asked), "benchmarks.gpu_check")
        kind, name = profile.kind, numerics.name
        known = GPUS[kind].rates(numerics.sixteen_bit) if kind in GPUS else None
        yield Row(f"profile of {kind}, {name}", *_rates(setting, profile.rates, known))
        for each in profile.parts:
            times = {"forward ms": each.forward * 1e3, "backward ms": each.backward * 1e3}
            yield Row(f"profile, {name}, {each.part} of {each.tokens} tokens", times)


def _rates(
    setting: Setting, found: Rates, known: Rates | None
) -> tuple[dict[str, float], tuple[Bar, ...]]:
    """Return the rates, and the bars on their ratio to the table's; none for an unknown kind."""
    figures = {"TFLOP/s": found.flops_per_second / 1e12, "GB/s": found.bytes_per_second / 1e9}
    if known is None:
        return figures, ()
    ratios = {
        "products": found.flops_per_second / known.flops_per_second,
        "memory": found.bytes_per_second / known.bytes_per_second,
    }
    bars = tuple(
        Bar(
            f"{name} {ratio:.2f} x the table, within {CLOSE:.0%}",
            abs(ratio - 1) <= CLOSE if setting.judges_speed else None,
        )
        for name, ratio in ratios.items()
    )
    return figures, bars
