import pytest

from cluster.metrics import Recorder
from moe.errors import ClusterError


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
