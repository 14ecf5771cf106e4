"""Costs of spans of layers: bytes against those of a rank, recomputation against every subset."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, combinations, pairwise
from math import isfinite
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.config.model import ModelConfig
from moe.config.share import Share, whole
from moe.planning.counts.fixed import PROCESS_BYTES
from moe.planning.counts.memory import Position, rank_bytes
from moe.planning.counts.workload import NUMERICS, Workload
from moe.planning.devices.inventory import Inventory
from moe.planning.devices.links import Link
from moe.planning.stages.gang import GangCosts, StageCost
from moe.planning.stages.member import Member, MemberCosts
from moe.planning.stages.widths import cut_width, width_share
from tests.examples import examples
from tests.plans import FINE, SMOLLM2, configs, device, inventory
from tests.questions import draw_model, draw_workload

ROUNDED = 2
"""Bytes by which sums of the same numbers in another order may differ: two are rounded up."""

workloads = st.builds(
    Workload,
    sequence_length=st.integers(1, 40),
    micro_batch=st.integers(1, 3),
    micro_batches=st.integers(1, 6),
    training=st.booleans(),
    pass_tokens=st.integers(1, 50),
    numerics=st.sampled_from(list(NUMERICS.values())),
    zero=st.integers(0, 3),
    imbalance=st.floats(1, 3),
    capacity_factor=st.sampled_from([None, 1.25]),
    copies=st.booleans(),
    gpus=st.booleans(),
)


@st.composite
def shares(draw: st.DrawFn, config: ModelConfig) -> Share:
    """Draw the slice of one member of a gang."""
    limits = (config.kv_heads, config.ffn_size, config.experts, config.shared_size)
    gang = draw(st.integers(1, min(config.vocab_size, *(each for each in limits if each))))
    weights = draw(st.lists(st.floats(0.1, 10), min_size=gang, max_size=gang))
    return width_share(config, draw(st.sampled_from(cut_width(config, weights))))


@settings(max_examples=examples(150))
@given(st.data())
def test_bytes_of_a_run_of_layers_are_those_of_the_rank_that_holds_it(data: st.DataObject) -> None:
    config = data.draw(configs())
    share, workload = data.draw(shares(config)), data.draw(workloads)
    start = data.draw(st.integers(0, config.layers - 1))
    stop = data.draw(st.integers(start + 1, config.layers))
    recompute = data.draw(st.sets(st.integers(start, stop - 1))) if workload.training else set()
    position = Position(data.draw(st.integers(1, 5)), (start == 0, stop == config.layers))
    replicas = data.draw(st.integers(1, 3))
    held = replace(share, layers=(start, stop), embedding=position.ends[0], head=position.ends[1])
    there = inventory(3, kind="H100", host_bytes=2**33) if workload.gpus else inventory(3)
    devices = there.devices[:replicas]
    member = MemberCosts(config, there, workload, Member(share, devices))
    need = rank_bytes(config, held, position, workload, recompute, replicas)
    taken = member.bytes(((start, stop),), position, sorted(recompute))
    assert abs(taken - need.total) <= ROUNDED
    host = need.host / 2**33 if workload.gpus else 0.0
    fullness = max(taken / devices[0].memory_bytes, host)
    assert member.fullness(((start, stop),), position, sorted(recompute)) == fullness


def subsets(layers: range) -> list[tuple[int, ...]]:
    sizes = range(len(layers) + 1)
    return list(chain.from_iterable(combinations(layers, size) for size in sizes))


@pytest.mark.parametrize("seed", range(120))
def test_no_set_of_layers_that_fits_takes_less_to_compute_again(seed: int) -> None:
    random = Random(seed)
    config, workload = draw_model(random, random.randint(1, 6)), draw_workload(random)
    gang = random.randint(1, min(config.kv_heads, config.experts or 9, 2))
    start = random.randint(0, config.layers - 1)
    layers = (start, random.randint(start + 1, config.layers))
    position = Position(random.randint(1, 4), (start == 0, layers[1] == config.layers))
    shares = [width_share(config, width) for width in cut_width(config, [1.0, 2.0][:gang])]
    own = replace(shares[0], layers=layers, embedding=position.ends[0], head=position.ends[1])
    every = rank_bytes(config, own, position, workload).total - PROCESS_BYTES
    there = Inventory(
        tuple(
            device(f"d{number}", memory_bytes=PROCESS_BYTES + int(every * random.uniform(0.2, 1.1)))
            for number in range(gang)
        )
    )
    members = [Member(*each) for each in zip(shares, ((d,) for d in there.devices), strict=True)]
    costs = GangCosts(config, there, workload, members)
    tried = [costs.fixed(layers, position, chosen) for chosen in subsets(range(*layers))]
    fitting = [cost for cost in tried if cost.fullness <= 1]
    found = costs.stage(layers, position)
    assert found == costs.alike(layers, position)
    assert (found.fullness <= 1) == bool(fitting)
    if fitting:
        assert found.backward <= min(cost.backward for cost in fitting) * (1 + 1e-12)
        assert found == costs.fixed(layers, position, found.recompute)


def test_less_room_is_more_layers_computed_again() -> None:
    """The cases above would prove nothing if all of them kept, or recomputed, everything."""
    config = replace(FINE, layers=8)
    share = whole(config)
    workload = Workload(sequence_length=512, micro_batch=2, micro_batches=8)
    position = Position(4, (False, False))
    middle = replace(share, layers=(0, 8), embedding=False, head=False)
    most = rank_bytes(config, middle, position, workload).total
    counts = []
    for part in range(100, 45, -5):
        there = inventory(1, memory_bytes=most * part // 100)
        costs = GangCosts(config, there, workload, [Member(share, there.devices)])
        stage = costs.stage((0, 8), position)
        if stage.fullness <= 1:
            counts.append(len(stage.recompute))
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert len(set(counts)) >= 4


def test_alike_layers_elsewhere_cost_the_same() -> None:
    there = inventory(1)
    workload = Workload(sequence_length=64, micro_batch=1, micro_batches=4)
    costs = GangCosts(FINE, there, workload, [Member(whole(FINE), there.devices)])
    position = Position(2, (False, False))
    spans = [(1, 5), (2, 6), (9, 13), (26, 30)]
    first, *others = (costs.alike(span, position) for span in spans)
    for span, other in zip(spans[1:], others, strict=True):
        assert other == first
        assert close(costs.stage(span, position), first)
    assert not close(costs.stage((0, 4), position), first)


def close(one: StageCost, other: StageCost) -> bool:
    return _seconds(one) == pytest.approx(_seconds(other), rel=1e-12)


def _seconds(cost: StageCost) -> Sequence[float]:
    return cost.forward, cost.backward, cost.reduce, cost.update, cost.fullness


def two_halves(there: Inventory, workload: Workload) -> GangCosts:
    shares = [width_share(SMOLLM2, width) for width in cut_width(SMOLLM2, [1.0, 1.0])]
    members = [Member(s, (d,)) for s, d in zip(shares, there.devices, strict=True)]
    return GangCosts(SMOLLM2, there, workload, members)


def test_a_gang_sums_twice_in_a_block_each_way_and_at_the_ends_it_splits() -> None:
    workload = Workload(sequence_length=64, micro_batch=2, micro_batches=4)
    quick = Inventory(inventory(2).devices, (Link(("a",), 1e30),))
    slow = Inventory(inventory(2).devices, (Link(("a",), 1e30, 0.25),))
    middle, both = Position(1, (False, False)), Position(1, (True, True))
    # A ring of two has two steps, so one sum takes 0.5 s.
    for position, ends in ((middle, 0), (Position(1, (True, False)), 1), (both, 2)):
        less, more = (
            two_halves(there, workload).stage((3, 6), position) for there in (quick, slow)
        )
        assert more.forward - less.forward == pytest.approx(0.5 * (2 * 3 + ends))
        assert more.backward - less.backward == pytest.approx(0.5 * 2 * 3)
    serving = replace(workload, training=False)
    assert two_halves(slow, serving).stage((3, 6), middle).backward == 0


def test_replicas_wait_for_the_slowest_and_fit_the_smallest() -> None:
    workload = Workload(sequence_length=64, micro_batch=2, micro_batches=4, zero=0)
    fast = device("fast", speed=2.0)
    small = device("small", memory_bytes=10**10)
    there = Inventory((fast, small, device("c")), (Link(("a",), 1e9, 0.5),))
    alone, pair = (
        GangCosts(SMOLLM2, there, workload, [Member(whole(SMOLLM2), devices)])
        for devices in ((small,), (fast, small))
    )
    layers, position = (0, 30), Position()
    one, two = alone.stage(layers, position), pair.stage(layers, position)
    assert (two.forward, two.backward) == (one.forward, one.backward)
    assert two.update == one.update
    assert two.fullness == one.fullness
    size = 4 * pair.members[0].parameters((layers,), position).total
    assert (one.reduce, two.reduce) == (0.0, pytest.approx(2 * (0.5 + size / 2 / 1e9)))


def test_without_a_connection_no_run_of_layers_is_free() -> None:
    workload = Workload(sequence_length=64, micro_batch=2, micro_batches=4)
    apart = Inventory(inventory(2).devices, (Link(("a",), 0.0),))
    costs = two_halves(apart, workload)
    for start, stop in pairwise(range(0, 31, 5)):
        cost = costs.stage((start, stop), Position(1, (start == 0, stop == 30)))
        assert not isfinite(cost.forward)
        assert cost.forward > 0
