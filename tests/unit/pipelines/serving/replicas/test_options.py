"""What Ray Serve is told of replicas and their front."""

from typing import Any

import pytest
from ray import serve

from moe.errors import ConfigError
from pipelines.serving.arguments import RunArguments, ServeArguments, parse_arguments
from pipelines.serving.replicas.options import front_options, replica_options

LABELS = {"raymoe/role": "driver"}


class Something:
    """Stands for what is deployed: options know nothing of it."""


def deployed(options: dict[str, Any]) -> dict[str, Any]:
    """Return what Ray Serve makes of options for its actors."""
    made: Any = serve.deployment(**options)(Something)
    found: dict[str, Any] = made.ray_actor_options
    return found


def arguments(**more: Any) -> ServeArguments:
    found = parse_arguments({"model": "m", "driver_labels": LABELS, **more})
    assert isinstance(found, ServeArguments)
    return found


def test_replicas_and_front_are_where_the_driver_is() -> None:
    several = arguments(replicas=2)
    for options in (
        replica_options(arguments()),
        replica_options(several),
        front_options(several),
        replica_options(RunArguments(run="demo", driver_labels=LABELS)),
    ):
        assert deployed(options) == {"num_cpus": 0, "label_selector": LABELS}
    assert deployed(replica_options(arguments(driver_labels={}))) == {"num_cpus": 0}


def test_labels_that_no_node_can_have_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"argument driver_labels: .*'x y' is invalid"):
        arguments(driver_labels={"pool": "x y"})


@pytest.mark.parametrize(
    ("more", "most"),
    [({}, 1), ({"replicas": 3, "surge": 1}, 4), ({"replicas": 0, "max_replicas": 5}, 5)],
)
def test_the_most_replicas_at_once(more: dict[str, Any], most: int) -> None:
    assert arguments(**more).most == most
