from dataclasses import replace

import pytest

from cluster.nodes import inventory
from cluster.probe import nodes_of_ray, probe
from cluster.session import Session
from pipelines.planning.probing import probed
from pipelines.planning.wanted import Wanted
from tests.plans import SMOLLM2

pytestmark = pytest.mark.ray


def test_this_machine_is_eight_logical_cores(ray_session: Session) -> None:
    devices = probe().devices
    assert len(devices) == 8
    assert len({device.node for device in devices}) == 1
    assert {(device.kind, device.threads) for device in devices} == {("cpu", 1)}
    assert all(device.memory_bytes > 2**20 for device in devices)


def test_a_node_measures_a_stand_in_of_the_model_on_all_its_devices(ray_session: Session) -> None:
    nodes = nodes_of_ray()
    there = inventory(nodes, threads=4)
    sizes = {"vocab_size": 97, "hidden_size": 32, "layers": 2, "ffn_size": 64}
    config = replace(SMOLLM2, **sizes, heads=4, kv_heads=2, head_size=8)
    found = probed(there, nodes, Wanted(config, 32, (1,), "float32"))
    (profile,) = found.profiles
    assert (profile.kind, profile.threads, profile.precision) == ("cpu", 4, "float32")
    assert {part.part for part in profile.parts} == {"embedding", "dense", "head", "optimizer"}
    planned = found.applied(there, nodes)
    assert planned.pace(planned.devices[0]).source.startswith("probed on ")
    assert planned.links == found.links


def test_a_node_that_does_not_answer_in_time_is_told(ray_session: Session) -> None:
    nodes = nodes_of_ray()
    there = inventory(nodes, threads=8)
    found = probed(there, nodes, Wanted(SMOLLM2, 32, (1,), "float32"), seconds=0.01)
    assert found.profiles == ()
    (note,) = found.notes
    assert "was not free, or not done, within 0.01 s; cpu of 8 threads" in note
