"""The validator itself: what an API server refuses must not pass here."""

import copy
from typing import Any

import pytest

from tests.manifests.samples import ON_CPUS, job, two_stages
from tests.manifests.schema import faults


def _job(*path: Any, value: Any) -> dict[str, Any]:
    table = copy.deepcopy(job(two_stages(), ON_CPUS))
    node: Any = table["spec"]
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return table


HEAD = ("rayClusterSpec", "headGroupSpec")
LIMITS = ("template", "spec", "containers", 0, "resources", "limits")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (_job("entryPoint", value="x"), "unknown field .spec.entryPoint"),
        (_job(*HEAD, "rayStartParams", "num-cpus", value=0), "0 is not of type 'string'"),
        (_job(*HEAD, *LIMITS, "memory", value="6 Gi"), "bad quantity"),
        (_job(*HEAD, "template", "spec", "restartPolicie", value="x"), "unknown field"),
        (_job("rayClusterSpec", "authOptions", "mode", value="open"), "not one of"),
        (_job("rayClusterSpec", "workerGroupSpecs", 0, "replicas", value="1"), "type 'integer'"),
        (_job("managedBy", value="me"), "managedBy"),
        (_job("deletionStrategy", value={}), "deletion"),
    ],
)
def test_a_planted_fault_is_found(table: dict[str, Any], words: str) -> None:
    assert words.lower() in "\n".join(faults(table)).lower()


def test_amounts_may_be_whole_numbers_and_sizes_have_defaults() -> None:
    assert faults(_job(*HEAD, *LIMITS, "cpu", value=2)) == []
    table = _job("rayClusterSpec", "enableInTreeAutoscaling", value=True)
    for group in table["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        del group["minReplicas"], group["maxReplicas"]
    assert faults(table) == []
