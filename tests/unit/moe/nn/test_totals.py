"""Statistics of a step: however micro-batches are spread over replicas, they are the same."""

from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.commands import LayerReport
from moe.config.layer_statistics import STATISTICS, LayerStatistics
from moe.nn.statistics import RoutingStatistics
from moe.nn.totals import statistics_of, summed
from tests.examples import examples


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


@settings(max_examples=examples(60))
@given(batches=batches(), data=st.data())
def test_parts_add_up_to_the_whole(batches: list[RoutingStatistics], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(batches) - 1))
    parts = [summed(part) for part in (batches[:cut], batches[cut:]) if part]
    merged = statistics_of(torch.stack(parts).sum(dim=0).tolist())
    whole = statistics_of(summed(batches).tolist())
    for each in STATISTICS:
        assert getattr(merged, each.name) == pytest.approx(getattr(whole, each.name))
    tokens = [int(batch.tokens) for batch in batches]
    assert whole.tokens == sum(tokens)
    rates = [n * batch.drop_rate.item() for n, batch in zip(tokens, batches, strict=True)]
    assert whole.drop_rate == pytest.approx(sum(rates) / max(sum(tokens), 1))
    losses = [batch.balance_loss.item() for batch in batches]
    assert whole.balance_loss == pytest.approx(sum(losses) / len(losses))
    assert whole.load == tuple(torch.stack([batch.load for batch in batches]).sum(0).tolist())
    assert sum(whole.probability) == pytest.approx(min(whole.tokens, 1))
    assert (whole.z_loss is None) == (batches[0].z_loss is None)
    assert whole.device_loss is None


def test_large_counts_are_exact() -> None:
    zero = torch.zeros(())
    load = torch.tensor([2**40 + 1, 3])
    batch = RoutingStatistics(load.sum(), load, torch.tensor([0.5, 0.5]), zero, zero, zero)
    assert statistics_of(summed([batch, batch]).tolist()).load == (2**41 + 2, 6)


def test_reports_hold_what_the_table_reports() -> None:
    reported = {each.name for each in STATISTICS if each.reported}
    beside = {"coefficient", "similarity", "closest"}
    assert {each.name for each in fields(LayerReport)} == reported | beside
    assert {each.name for each in STATISTICS} == set(RoutingStatistics._fields)


def test_a_step_without_tokens_is_finite() -> None:
    none, zeros = torch.zeros(()), torch.zeros(2)
    nothing = RoutingStatistics(none, zeros, zeros, none, none, none)
    assert statistics_of(summed([nothing, nothing]).tolist()) == LayerStatistics(
        0, (0, 0), (0.0, 0.0), 0.0, 0.0, 0.0, None, None
    )
