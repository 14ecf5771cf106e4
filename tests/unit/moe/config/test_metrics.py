"""The table of metrics, and how many series follow from it."""

import re
from pathlib import Path

import pytest

from moe.config.metrics import METRICS, MOST_SERIES, Extent, full, metric, series, table_rows

PAGE = Path(__file__).parents[4] / "docs" / "reference" / "metrics.md"
LARGE = Extent(layers=62, experts=128, stages=12, ranks=1536)
SMALL = Extent(layers=4, experts=4, stages=2, ranks=4)


def test_names_are_unique_and_legal_in_prometheus() -> None:
    names = [entry.name for entry in METRICS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z][a-z_]*", name) for name in names)


def test_a_counter_is_exported_with_the_ending_that_prometheus_expects() -> None:
    assert metric("tokens").exported_name == "ray_raymoe_tokens_total"
    assert metric("loss").exported_name == "ray_raymoe_loss"


def test_the_docs_hold_every_metric_as_it_is() -> None:
    page = PAGE.read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    expected = [f"| `{n}` | {k} | {u} | {t} | {d} |" for n, k, u, t, d in table_rows()]
    assert rows == expected


def test_a_large_run_has_few_series_unless_it_asks_for_all() -> None:
    assert series(LARGE, in_full=False) <= MOST_SERIES
    assert series(LARGE, in_full=True) > 62 * 128 + 5 * 1536
    counts = [series(LARGE, in_full) for in_full in (False, True)]
    assert "has {:,} series at most, and {:,} in full".format(*counts) in PAGE.read_text()
    assert [full(detail, LARGE) for detail in ("auto", "summary", "full")] == [False, False, True]


def test_a_small_run_tells_of_single_experts_unless_it_asks_for_a_summary() -> None:
    assert [full(detail, SMALL) for detail in ("auto", "summary", "full")] == [True, False, True]


@pytest.mark.parametrize("detail", [False, True])
def test_a_rank_is_counted_once_whatever_its_stage(detail: bool) -> None:
    more = series(Extent(4, 4, 2, 5), detail) - series(SMALL, detail)
    assert more == (1 + 4 + 1 if detail else 1)
