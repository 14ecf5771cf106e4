"""Moves between two plans: carried out on real arrays, they leave each device what it needs."""

from collections import defaultdict
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.config.model import ModelConfig
from moe.config.tensors import TensorSlice, held_by, tensors
from moe.errors import PlanError
from moe.planning.counts.memory import state_bytes
from moe.planning.counts.workload import FLOAT32, MEGATRON, Workload
from moe.planning.devices.inventory import Inventory
from moe.planning.moves.difference import Move, diff
from moe.planning.plan.plan import Plan
from tests.examples import examples
from tests.plans import SMOLLM2, any_plans, configs, device, single, with_experts

SOME = settings(max_examples=examples(60))
NODES = {f"{node}/{number}": node for number in range(14) for node in "abc"}
EVERYWHERE = Inventory(tuple(device(name, node) for name, node in NODES.items()))
TRAINING = Workload(8, 1, 1)

Store = dict[tuple[str, str, str], np.ndarray[Any, Any]]
"""By device, state and tensor: the numbers of its elements, -1 where it does not hold them."""


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    """Draw a workload of any numerics and stage of ZeRO, training or not."""
    return replace(
        TRAINING,
        training=draw(st.booleans()),
        numerics=draw(st.sampled_from([FLOAT32, MEGATRON])),
        zero=draw(st.integers(0, 3)),
    )


@st.composite
def replicated(draw: st.DrawFn, config: ModelConfig) -> Plan:
    """Draw a plan of a few replicas whose ranks are on any devices, each on its own."""
    plan = draw(any_plans(config).filter(lambda plan: plan.ranks <= 14))
    replicas = draw(st.integers(1, 42 // plan.ranks if plan.ranks > 14 else 3))
    names = iter(draw(st.permutations(sorted(NODES))))
    stages = []
    for stage in plan.stages:
        ranks = (
            replace(rank, devices=tuple(next(names) for _ in range(replicas)))
            for rank in stage.ranks
        )
        stages.append(replace(stage, ranks=tuple(ranks)))
    return replace(plan, stages=tuple(stages))


def pairs() -> st.SearchStrategy[tuple[ModelConfig, Plan, Plan]]:
    """Draw a model and two plans for it."""
    return configs().flatmap(
        lambda config: st.tuples(st.just(config), replicated(config), replicated(config))
    )


def numbered(tensor: TensorSlice) -> np.ndarray[Any, Any]:
    """Return the elements of a tensor by their numbers, the dimension that is cut first."""
    order = np.arange(prod(tensor.shape))
    if tensor.role.cut != 1:
        return order.reshape(tensor.shape)
    return order.reshape(tensor.shape[::-1]).T


def store(config: ModelConfig, plan: Plan, workload: Workload) -> Store:
    """Return what every device holds, element by element."""
    whole = {tensor.name: tensor for tensor in tensors(config)}
    held: Store = {}
    for number in range(plan.ranks):
        names = plan.rank(number).devices
        for part in held_by(config, plan.share(number)):
            elements = numbered(whole[part.name])
            if part.dim is not None:
                elements = elements.take(range(part.start, part.stop), axis=part.dim)
            elements = np.sort(elements, axis=None)
            cuts = [len(elements) * replica // len(names) for replica in range(1, len(names))]
            for name, own in zip(names, np.split(elements, cuts), strict=True):
                for state, least in (("weights", 3), ("optimizer", 1)):
                    if state == "optimizer" and not (workload.training and part.role.trained):
                        continue
                    key = name, state, part.name
                    mine = own if workload.zero >= least else elements
                    held.setdefault(key, np.full(prod(part.shape), -1))[mine] = mine
    return held


def carry_out(held: Store, moves: tuple[Move, ...]) -> Store:
    """Return what devices hold after the moves, from what they held before all of them."""
    after = {key: values.copy() for key, values in held.items()}
    for move in moves:
        span = slice(move.span.start, move.span.stop)
        given = held[move.source, move.state, move.span.name][span]
        assert len(given) == move.span.elements > 0
        assert (given >= 0).all(), "the source does not hold it"
        key = move.device, move.state, move.span.name
        taken = after.setdefault(key, np.full(prod(move.span.shape), -1))
        assert (taken[span] < 0).all(), "it was held, or moved before"
        taken[span] = given
    return after


@SOME
@given(pairs(), workloads(), st.booleans())
def test_moves_bring_all_that_was_lacking_once_from_who_holds_it(
    drawn: tuple[ModelConfig, Plan, Plan], workload: Workload, placed: bool
) -> None:
    config, old, new = drawn
    found = diff(config, old, new, workload, EVERYWHERE if placed else None)
    before, wanted = store(config, old, workload), store(config, new, workload)
    after = carry_out(before, found.moves)
    lacking: dict[str, int] = defaultdict(int)
    for (name, state, tensor), values in wanted.items():
        mine = values >= 0
        assert (after.get((name, state, tensor), values * 0 - 1)[mine] == values[mine]).all()
        held = before.get((name, state, tensor), values * 0 - 1)
        size = workload.numerics.weight if state == "weights" else workload.numerics.optimizer
        lacking[name] += size * int((mine & (held < 0)).sum())
    assert found.received == {name: size for name, size in lacking.items() if size}
    assert found.bytes == sum(lacking.values()) == sum(found.given.values())
    assert found.bytes == found.weight_bytes + found.optimizer_bytes
    assert not found.lost_bytes


@SOME
@given(pairs(), workloads())
def test_a_plan_does_not_differ_from_itself(
    drawn: tuple[ModelConfig, Plan, Plan], workload: Workload
) -> None:
    config, plan, _ = drawn
    assert diff(config, plan, plan, workload).moves == ()


@SOME
@given(pairs(), workloads())
def test_a_holder_on_the_same_node_gives(
    drawn: tuple[ModelConfig, Plan, Plan], workload: Workload
) -> None:
    config, old, new = drawn
    before = store(config, old, workload)
    for move in diff(config, old, new, workload, EVERYWHERE).moves:
        if move.source is None or NODES[move.source] == NODES[move.device]:
            continue
        at = (move.span.start, (move.span.start + move.span.stop) // 2, move.span.stop - 1)
        for (name, state, tensor), values in before.items():
            if (state, tensor) == (move.state, move.span.name):
                assert NODES[name] != NODES[move.device] or (values[list(at)] < 0).all()


@SOME
@given(pairs(), st.sets(st.sampled_from("abc"), max_size=2))
def test_what_lost_devices_alone_held_has_no_source(
    drawn: tuple[ModelConfig, Plan, Plan], lost: set[str]
) -> None:
    config, old, new = drawn
    needed = {name for stage in new.stages for rank in stage.ranks for name in rank.devices}
    left = Inventory(
        tuple(each for each in EVERYWHERE.devices if each.node not in lost or each.name in needed)
    )
    alive = {each.name for each in left.devices}
    before = {
        key: values for key, values in store(config, old, TRAINING).items() if key[0] in alive
    }
    found = diff(config, old, new, TRAINING, left)
    carry_out(before, tuple(move for move in found.moves if move.source is not None))
    for move in found.moves:
        if move.source is None:
            held = [
                values[move.span.start : move.span.stop]
                for (_, state, tensor), values in before.items()
                if (state, tensor) == (move.state, move.span.name)
            ]
            assert all((values < 0).all() for values in held)
    assert found.bytes == found.lost_bytes + sum(found.given.values())


@SOME
@given(pairs())
def test_whole_rows_and_columns_are_slices(drawn: tuple[ModelConfig, Plan, Plan]) -> None:
    config, old, new = drawn
    whole = {tensor.name: tensor for tensor in tensors(config)}
    for move in diff(config, old, new, TRAINING).moves:
        part = move.span.part
        assert part is not None or move.state == "optimizer"
        if part is not None:
            elements = numbered(whole[part.name])
            if part.dim is not None:
                elements = elements.take(range(part.start, part.stop), axis=part.dim)
            span = range(move.span.start, move.span.stop)
            assert sorted(elements.ravel().tolist()) == list(span)


def test_one_layer_across_a_cut_moves_with_its_states_and_nothing_else() -> None:
    config = with_experts(replace(SMOLLM2, layers=4), 2)
    old, new = cut_at(config, 2), cut_at(config, 1)
    found = diff(config, old, new, TRAINING)
    layer = [tensor for tensor in tensors(config) if ".layers.1." in tensor.name]
    parts = [(move.state, move.span.part) for move in found.moves]
    assert parts == [(state, tensor) for state in ("weights", "optimizer") for tensor in layer]
    assert {(move.device, move.source) for move in found.moves} == {("b/1", "a/0")}
    size, _, states = state_bytes(sum(tensor.elements for tensor in layer), TRAINING, 1)
    assert (found.weight_bytes, found.optimizer_bytes) == (size, states)
    assert found.received == {"b/1": size + states}
    assert found.given == {"a/0": size + states}


def cut_at(config: ModelConfig, layer: int) -> Plan:
    """Return the plan of two ranks on two nodes, cut before a layer."""
    (stage,) = single(config).stages
    return Plan(
        config.summary(),
        tuple(
            replace(stage, layers=layers, ranks=(replace(stage.ranks[0], devices=(name,)),))
            for layers, name in (((0, layer), "a/0"), ((layer, config.layers), "b/1"))
        ),
    )


def replicas(config: ModelConfig, *names: str) -> Plan:
    """Return the plan of one rank in several replicas."""
    (stage,) = single(config).stages
    (rank,) = stage.ranks
    return replace(single(config), stages=(replace(stage, ranks=(replace(rank, devices=names),)),))


def test_ranks_that_change_numbers_on_their_devices_move_nothing() -> None:
    config = replace(SMOLLM2, layers=4)
    swapped = replicas(config, "a/0", "a/1"), replicas(config, "a/1", "a/0")
    assert diff(config, *swapped, replace(TRAINING, zero=0)).moves == ()
    found = diff(config, *swapped, TRAINING)
    assert found.weight_bytes == 0
    _, _, states = state_bytes(sum(tensor.elements for tensor in tensors(config)), TRAINING, 1)
    assert found.optimizer_bytes == states


def test_a_new_replica_is_given_weights_by_all_alike() -> None:
    config, serving = replace(SMOLLM2, layers=8), replace(TRAINING, training=False)
    old = replicas(config, "a/0", "a/1", "a/2", "b/3")
    new = replicas(config, "a/4", "a/1", "a/2", "b/3")
    found = diff(config, old, new, serving)
    assert found.given.keys() == {"a/0", "a/1", "a/2", "b/3"}
    largest = max(move.size for move in found.moves)
    assert max(found.given.values()) - min(found.given.values()) <= largest
    assert diff(config, old, new, serving, EVERYWHERE).given.keys() == {"a/0", "a/1", "a/2"}


def test_plans_for_another_model_or_devices_are_refused() -> None:
    plan = single(SMOLLM2)
    with pytest.raises(PlanError, match="make a plan for this model"):
        diff(with_experts(SMOLLM2, 8), plan, plan, TRAINING)
    with pytest.raises(PlanError, match="the plan uses device a/0, the inventory has z/0"):
        diff(SMOLLM2, plan, plan, TRAINING, Inventory((device("z/0", "z"),)))
