"""What the nodes of a cluster are asked to measure, and what comes of their answers. No Ray."""

from dataclasses import replace

import pytest

from actors.profiling.machine import Found
from actors.profiling.measure import Timed
from actors.profiling.messages import Message, Wire
from cluster.nodes import Node, inventory
from moe.planning.devices.pace import Profile
from moe.planning.devices.rates import Rates
from pipelines.planning.probing import MOST_RANKS, Findings, findings, probes
from pipelines.planning.wanted import Wanted
from tests.plans import SMOLLM2, with_experts

GIB = 2**30
WANTED = Wanted(with_experts(SMOLLM2, 4), 256, (1,), "float32")
OLD = Node("a", 2, 0, "", 16 * GIB, {}, processor="old", id="1")
NEW = Node("b", 4, 0, "", 16 * GIB, {}, processor="new", id="2")
LARGE = replace(NEW, name="c", cpus=64, id="3")
WIRE = Wire(Message(4, (1e-4,)), Message(1004, (2e-4,)), Message(8, (1e-4,)))


def found(flops: float, seconds: float) -> Found:
    parts = tuple(Timed(part, 256, (seconds,), (seconds,)) for part in ("moe", "head"))
    rates = Rates(flops, 1e10, flops, flops / 2)
    return Found("cpu", rates, parts, WIRE, 1.0)


def test_the_largest_node_of_each_processor_measures_on_all_its_devices() -> None:
    nodes = [OLD, NEW, LARGE]
    old, new = probes(inventory(nodes), nodes, WANTED)
    assert (old.node.name, old.asked.ranks, old.asked.threads) == ("a", 2, 1)
    assert (new.node.name, new.asked.ranks) == ("c", MOST_RANKS)
    assert old.asked.on_cpu
    assert (old.asked.precision, old.asked.micro_batches, old.asked.quick) == (
        "float32",
        (1,),
        True,
    )
    (wide,) = probes(inventory([OLD], threads=2), [OLD], replace(WANTED, numerics="bf16"))
    assert (wide.asked.ranks, wide.asked.threads, wide.asked.precision) == (1, 2, "bf16")


def test_what_has_a_profile_in_the_precision_is_not_measured_again() -> None:
    there = inventory([OLD]).measured([Profile("cpu", 1, Rates(1e11, 1e10))])
    assert probes(there, [OLD], WANTED) == []
    assert len(probes(there, [OLD], replace(WANTED, numerics="megatron"))) == 1


def test_a_gpu_of_each_kind_measures_alone() -> None:
    gpus = Node("g", 16, 8, "H200", 64 * GIB, {}, processor="any", id="4")
    twin = replace(gpus, name="h", processor="other", id="5")
    (probe,) = probes(inventory([gpus, twin]), [gpus, twin], WANTED)
    assert (probe.kind, probe.what, probe.asked.ranks) == (("H200", 1, ""), "H200", 1)
    assert not probe.asked.on_cpu


def test_the_first_processor_is_the_profile_and_the_others_have_their_speed() -> None:
    nodes = [OLD, NEW]
    there = inventory(nodes)
    old, new = probes(there, nodes, WANTED)
    made = findings([(old, (found(5e10, 0.4),) * 2), (new, (found(1e11, 0.1),) * 4)])
    (profile,) = made.profiles
    assert profile.source.startswith("probed on a, cpu of 1 thread (old), 20")
    assert made.speeds == {("cpu", 1, "new"): pytest.approx(4.0)}
    assert made.notes[0].startswith(
        "probed cpu of 1 thread (old) on a, 2 at once: 50, 50, 25 GFLOP/s"
    )
    planned = made.applied(there, nodes)
    paces = {each.node: planned.pace(each).rates.flops_per_second for each in planned.devices}
    assert paces == {"a": pytest.approx(5e10), "b": pytest.approx(2e11)}
    assert len(planned.links) == 1
    assert planned.cautions(sixteen_bit=False) == ()


def test_nothing_found_changes_nothing() -> None:
    there = inventory([OLD])
    assert Findings().applied(there, [OLD]) == there
    assert findings([]) == Findings()
