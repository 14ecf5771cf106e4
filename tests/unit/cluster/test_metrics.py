import re
from pathlib import Path

import pytest

from cluster.metrics import Recorder
from moe.config.metrics import METRICS, metric, table_rows
from moe.errors import ClusterError


def test_names_are_unique_and_legal_in_prometheus() -> None:
    names = [entry.name for entry in METRICS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z][a-z_]*", name) for name in names)


def test_a_counter_is_exported_with_the_ending_that_prometheus_expects() -> None:
    assert metric("tokens").exported_name == "ray_raymoe_tokens_total"
    assert metric("loss").exported_name == "ray_raymoe_loss"


def test_the_documentation_lists_every_metric_with_its_tags() -> None:
    rows = {row[0]: row for row in table_rows()}
    assert len(rows) == len(METRICS)
    assert rows["ray_raymoe_expert_load"][3] == "run, layer, expert"


def test_an_unknown_metric_names_the_nearest() -> None:
    with pytest.raises(ClusterError, match="no metric los; did you mean loss"):
        Recorder("r").record("los", 1.0)


@pytest.mark.parametrize(
    ("name", "tags"), [("drop_rate", {}), ("loss", {"layer": 1}), ("expert_load", {"layer": 1})]
)
def test_tags_are_those_of_the_table(name: str, tags: dict[str, int]) -> None:
    with pytest.raises(ClusterError, match="give exactly those"):
        Recorder("r").record(name, 1.0, **tags)


def test_a_counter_never_falls() -> None:
    with pytest.raises(ClusterError, match="a counter only rises"):
        Recorder("r").record("tokens", -1)


def test_the_docs_hold_every_metric_as_it_is() -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "metrics.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    expected = [f"| `{n}` | {k} | {u} | {t} | {d} |" for n, k, u, t, d in table_rows()]
    assert rows == expected
