"""Totals of a step: however micro-batches are spread over replicas, they add up to the same."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.nn.statistics import RoutingStatistics
from moe.nn.totals import Totals, summed, totals


@st.composite
def batches(draw: st.DrawFn) -> list[RoutingStatistics]:
    """Draw micro-batches, of unlike sizes where padding is unlike."""
    count, experts = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    has_z, made = draw(st.booleans()), []
    for _ in range(count):
        load = draw(st.lists(st.integers(0, 9), min_size=experts, max_size=experts))
        generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
        probability = torch.rand(experts, generator=generator).softmax(0)
        rate, balance, sharp, z = torch.rand(4, generator=generator)
        tokens = torch.tensor(sum(load))
        made.append(
            RoutingStatistics(
                tokens, torch.tensor(load), probability, rate, balance, sharp, z if has_z else None
            )
        )
    return made


@settings(max_examples=60, deadline=None)
@given(batches=batches(), data=st.data())
def test_parts_add_up_to_the_whole(batches: list[RoutingStatistics], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(batches) - 1))
    parts = [summed(part) for part in (batches[:cut], batches[cut:]) if part]
    merged, whole = totals(torch.stack(parts).sum(dim=0)), totals(summed(batches))
    for name in Totals._fields:
        assert getattr(merged, name) == pytest.approx(getattr(whole, name))
    tokens = [int(batch.tokens) for batch in batches]
    assert whole.tokens == sum(tokens)
    assert whole.batches == len(batches)
    rates = [n * batch.drop_rate.item() for n, batch in zip(tokens, batches, strict=True)]
    assert whole.dropped == pytest.approx(sum(rates))
    assert whole.load == tuple(torch.stack([batch.load for batch in batches]).sum(0).tolist())
    assert sum(whole.probability) == pytest.approx(whole.tokens)
    assert (whole.z_loss is None) == (batches[0].z_loss is None)
    assert whole.device_loss is None


def test_large_counts_are_exact() -> None:
    zero = torch.zeros(())
    load = torch.tensor([2**40 + 1, 3])
    batch = RoutingStatistics(load.sum(), load, torch.tensor([0.5, 0.5]), zero, zero, zero)
    assert totals(summed([batch, batch])).load == (2**41 + 2, 6)
