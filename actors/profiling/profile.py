"""The profile of a machine out of what its ranks found: medians, beside the seconds counted.

Counted seconds are those of ``moe.planning.counts.work`` at the rates that were measured, for the
whole layer. So measured over counted is what the planner corrects by, and on what was measured the
planner's seconds are the measured ones.
"""

from collections.abc import Sequence
from dataclasses import fields
from itertools import groupby
from statistics import median

from actors.profiling.machine import Found
from actors.profiling.measure import Measuring, Timed
from moe.config.model import ModelConfig
from moe.config.share import whole
from moe.planning.counts.passes import Passes
from moe.planning.counts.work import embedding_work, head_work, layer_work, optimizer_work, part_of
from moe.planning.counts.workload import NUMERICS, Workload
from moe.planning.devices.inventory import CPU
from moe.planning.devices.kinds import kind_of_gpu
from moe.planning.devices.pace import Measured, Pace, Profile
from moe.planning.devices.rates import Rates

_IDLE_SHARE = 0.9


def profile_of(asked: Measuring, found: Sequence[Found], source: str) -> Profile:
    """Return what all ranks found, as a profile of their kind of device."""
    keys = [field.name for field in fields(Rates)]
    rates = Rates(*(median(getattr(each.rates, key) for each in found) for key in keys))
    rounds = sorted((timed for each in found for timed in each.parts), key=_key)
    parts = [_measured(asked, list(of_all), Pace(rates)) for _, of_all in groupby(rounds, key=_key)]
    kind = found[0].device if found[0].device == CPU else kind_of_gpu(found[0].device)
    return Profile(kind, asked.threads, rates, tuple(parts), source, asked.precision)


def passes_of(config: ModelConfig, part: str, workload: Workload) -> Passes:
    """Return the work of a whole part on one micro-batch."""
    share = whole(config)
    if part == "embedding":
        return embedding_work(config, share, workload)
    if part == "head":
        return head_work(config, share, workload)
    layer = next(layer for layer in range(config.layers) if part_of(config, layer) == part)
    return layer_work(config, share, layer, workload)


def caution_of(asked: Measuring, found: Sequence[Found]) -> str | None:
    """Say what makes the figures doubtful, if anything does."""
    share = min(each.share for each in found)
    if share >= _IDLE_SHARE:
        return None
    what = "messages" if asked.threads == 1 else "all figures"
    return (
        f"the ranks had a core for {share:.0%} of the time: others use this machine, and {what} "
        "come out too slow; measure again when it is left alone, or with fewer --ranks"
    )


def _measured(asked: Measuring, rounds: Sequence[Timed], pace: Pace) -> Measured:
    part, tokens, numerics = rounds[0].part, rounds[0].tokens, NUMERICS[asked.precision]
    if part == "optimizer":
        counted = pace.once(part, optimizer_work(rounds[0].parameters, numerics)), 0.0
    else:
        length = asked.sequence_length
        workload = Workload(length, tokens // length, 1, numerics=numerics)
        counted = pace.seconds(part, passes_of(asked.config, part, workload), tokens)
    forward = median(seconds for timed in rounds for seconds in timed.forward)
    backward = median(seconds for timed in rounds for seconds in timed.backward)
    return Measured(part, tokens, forward, backward, *counted)


def _key(timed: Timed) -> tuple[str, int]:
    return timed.part, timed.tokens
