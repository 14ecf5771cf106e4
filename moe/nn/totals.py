"""Statistics of micro-batches as one additive vector, and the vector back as statistics of a step.

The same sum adds micro-batches and replicas, so each token of a step is counted once under any
plan. Counts are exact: float64 holds whole numbers up to 2^53. The vector begins with the number of
micro-batches; then come the statistics of ``moe.config.layer_statistics``; means are multiplied by
their weights. A loss that a run does not use is NaN.

Shapes: N experts, F = 1 + numbers of the table + N for each statistic by expert.
"""

from collections.abc import Collection, Mapping, Sequence
from math import isnan, nan
from typing import Any

import torch
from torch import Tensor

from moe.config.layer_statistics import STATISTICS, LayerStatistics, Statistic
from moe.nn.statistics import RoutingStatistics

_PLAIN = 1 + sum(not each.by_expert for each in STATISTICS)
_BY_EXPERT = sum(each.by_expert for each in STATISTICS)


def summed(batches: Sequence[RoutingStatistics]) -> Tensor:
    """Return the totals of some micro-batches as a vector [F] in float64; such vectors can be
    added.
    """
    return torch.stack([_vector(batch) for batch in batches]).sum(dim=0)


def account(loss: Tensor, layers: Mapping[int, Sequence[RoutingStatistics]]) -> Tensor:
    """Return the loss of some micro-batches and the totals of every layer as one vector in float64;
    such vectors can be added.
    """
    return torch.cat([loss.double().reshape(1), *(summed(layers[each]) for each in sorted(layers))])


def read_account(
    numbers: Sequence[float], layers: Collection[int]
) -> tuple[float, dict[int, LayerStatistics]]:
    """Return the loss, and the statistics of each layer, of a vector of ``account``."""
    each = (len(numbers) - 1) // max(len(layers), 1)
    starts = range(1, len(numbers), max(each, 1))
    found = (statistics_of(numbers[start : start + each]) for start in starts)
    return numbers[0], dict(zip(sorted(layers), found, strict=True))


def statistics_of(values: Sequence[float]) -> LayerStatistics:
    """Return the statistics of a step from its totals, on the host."""
    experts = (len(values) - _PLAIN) // _BY_EXPERT
    sums: dict[str, Sequence[float]] = {}
    first = 1
    for each in STATISTICS:
        count = experts if each.by_expert else 1
        sums[each.name] = values[first : first + count]
        first += count
    weights = {"count": 1.0, "token mean": max(sums["tokens"][0], 1.0), "batch mean": values[0]}
    found = {each.name: _read(each, sums[each.name], weights[each.adds]) for each in STATISTICS}
    return LayerStatistics(**found)


def _read(statistic: Statistic, sums: Sequence[float], weight: float) -> Any:
    """Return one statistic: integers if it is a count, None if it is not used."""
    if statistic.optional and isnan(sums[0]):
        return None
    found = [int(total) if statistic.adds == "count" else total / weight for total in sums]
    return tuple(found) if statistic.by_expert else found[0]


def _vector(batch: RoutingStatistics) -> Tensor:
    tokens = batch.tokens.double()
    parts = [torch.ones(1, dtype=torch.float64, device=tokens.device)]
    for each in STATISTICS:
        value = getattr(batch, each.name)
        if value is None:
            parts.append(torch.full_like(parts[0], nan))
            continue
        numbers = value.double()
        parts.append((numbers * tokens if each.adds == "token mean" else numbers).reshape(-1))
    return torch.cat(parts)
