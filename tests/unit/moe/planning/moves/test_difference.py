"""Moves between two plans: carried out on real arrays, they leave each seat what it needs."""

from collections import defaultdict
from collections.abc import Container
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.config.model import ModelConfig
from moe.config.tensors import tensors
from moe.errors import PlanError
from moe.planning.counts.memory import state_bytes
from moe.planning.counts.work import Parameters
from moe.planning.counts.workload import BF16, FLOAT32, MEGATRON, Numerics, Workload
from moe.planning.devices.inventory import Inventory
from moe.planning.moves.difference import Move, diff
from moe.planning.moves.holdings import STATES, State, StateBytes, holdings
from moe.planning.moves.seating import Seating, seated_by_device
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat
from tests.elements import elements_of
from tests.examples import examples
from tests.plans import SMOLLM2, configs, device, replicated, single, with_experts

SOME = settings(max_examples=examples(60))
NODES = {f"{node}/{number}": node for number in range(14) for node in "abc"}
EVERYWHERE = Inventory(tuple(device(name, node) for name, node in NODES.items()))
TRAINING = Workload(8, 1, 1)

FULL = {"weights": 4, "optimizer": 8}
MIXED = {"weights": 2, "optimizer": 8, "masters": 4}
THEIRS = {"weights": 2, "optimizer": 12}
BYTES = {
    "float32": (FULL, FULL),
    "bf16": (MIXED, FULL),
    "megatron": (THEIRS, THEIRS),
    "server": (FULL, FULL),
}
"""Bytes of an element of a matrix, and of a norm, a bias or a gate."""

Store = dict[tuple[Seat, State, str], np.ndarray[Any, Any]]
"""By seat, state and tensor: the numbers of its elements, -1 where the seat does not hold them."""


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    """Draw a workload of any numerics and stage of ZeRO, training or not."""
    return replace(
        TRAINING,
        training=draw(st.booleans()),
        numerics=draw(st.sampled_from([FLOAT32, BF16, MEGATRON])),
        zero=draw(st.integers(0, 3)),
    )


@st.composite
def cases(draw: st.DrawFn) -> tuple[ModelConfig, Plan, Plan, Seating]:
    """Draw a model, two plans, and who stays: devices keep their ranks, or any ranks any seats.

    Some ranks of the old plan may be lost, and some of these, or others, give from copies.
    """
    config = draw(configs())
    old, new = (draw(replicated(config, sorted(NODES)[:18])) for _ in range(2))
    seating = seated_by_device(old, new, draw(st.sampled_from([None, EVERYWHERE])))
    if draw(st.booleans()):
        order = draw(st.permutations(list(old.seats)))
        seating = replace(seating, stays=dict(zip(new.seats, order, strict=False)))
    lost = draw(st.sets(st.sampled_from(list(old.seats)), max_size=2))
    stays = {seat: was for seat, was in seating.stays.items() if was not in lost}
    living = [seat for seat in old.seats if seat not in lost]
    copied = draw(st.sets(st.sampled_from(list(old.seats)), max_size=3)) if living else set()
    holders = {
        seat: draw(st.sampled_from(living)) if seat in lost else seat for seat in sorted(copied)
    }
    return (
        config,
        old,
        new,
        Seating(stays, frozenset(lost), seating.old_nodes, seating.new_nodes, holders),
    )


def store(
    config: ModelConfig, plan: Plan, workload: Workload, copied: Container[Seat] = ()
) -> Store:
    """Return what every seat holds, element by element; of those copied, what their copies have."""
    shapes = {tensor.name: tensor.shape for tensor in tensors(config)}
    held: Store = {}
    for seat, holding in holdings(config, plan, StateBytes.of(workload), copied).items():
        for state in STATES:
            for name, own in holding[state].items():
                held[seat, state, name] = np.full(prod(shapes[name]), -1)
                held[seat, state, name][elements_of(own)] = elements_of(own)
    return held


def kept(before: Store, seating: Seating) -> Store:
    """Return what the seats of the new plan hold before anything moves, copies among it."""
    seats = {was: seat for seat, was in seating.stays.items()}
    found: Store = {}
    for (was, *key), own in before.items():
        giver = seating.giver(was)
        if giver in seats:
            held = found.setdefault((seats[giver], *key), np.full(len(own), -1))
            np.maximum(held, own, out=held)
    return found


def carry_out(before: Store, seating: Seating, moves: tuple[Move, ...]) -> Store:
    """Return what the new seats hold after the moves; a checkpoint gives what has no source."""
    after = {key: values.copy() for key, values in kept(before, seating).items()}
    for move in moves:
        at = elements_of(move.range)
        assert len(at) == move.range.elements > 0
        given = at
        if move.source is not None:
            assert move.source not in seating.lost
            held = [
                own[at]
                for (seat, *key), own in before.items()
                if seating.giver(seat) == move.source and key == [move.state, move.range.name]
            ]
            assert any((own == at).all() for own in held), "the source does not hold it"
        key = move.to, move.state, move.range.name
        taken = after.setdefault(key, np.full(prod(move.range.part.shape), -1))
        assert (taken[at] < 0).all(), "it was held, or moved before"
        taken[at] = given
    return after


@SOME
@given(cases(), workloads())
def test_moves_bring_all_that_was_lacking_once_from_who_holds_it(
    case: tuple[ModelConfig, Plan, Plan, Seating], workload: Workload
) -> None:
    config, old, new, seating = case
    found = diff(config, old, new, workload, seating)
    before, wanted = store(config, old, workload, seating.copied), store(config, new, workload)
    after, mine = carry_out(before, seating, found.moves), kept(before, seating)
    lacking: dict[Seat, int] = defaultdict(int)
    exact = {tensor.name: tensor.role.exact for tensor in tensors(config)}
    for (seat, state, name), values in wanted.items():
        needed, nothing = values >= 0, np.full(len(values), -1)
        assert (after.get((seat, state, name), nothing)[needed] == values[needed]).all()
        size = BYTES[workload.numerics.name if workload.training else "server"][exact[name]][state]
        held = mine.get((seat, state, name), nothing) >= 0
        lacking[seat] += size * int((needed & ~held).sum())
    assert found.received == {seat: size for seat, size in lacking.items() if size}
    lost = sum(move.size for move in found.lost)
    assert found.bytes == sum(lacking.values()) == sum(found.given.values()) + lost
    assert found.bytes == found.weight_bytes + found.optimizer_bytes


@SOME
@given(cases(), workloads())
def test_a_plan_does_not_differ_from_itself(
    case: tuple[ModelConfig, Plan, Plan, Seating], workload: Workload
) -> None:
    config, plan, _, _ = case
    assert diff(config, plan, plan, workload, seated_by_device(plan, plan)).moves == ()


@SOME
@given(cases(), workloads())
def test_a_holder_on_the_same_node_gives_and_only_what_no_rank_holds_has_no_source(
    case: tuple[ModelConfig, Plan, Plan, Seating], workload: Workload
) -> None:
    config, old, new, seating = case
    before = store(config, old, workload, seating.copied)
    for move in diff(config, old, new, workload, seating).moves:
        node = seating.new_nodes.get(move.to)
        source = None if move.source is None else seating.old_nodes.get(move.source)
        if move.source is not None and node == source:
            continue
        at = elements_of(move.range)[[0, -1]]
        for (seat, state, name), values in before.items():
            giver = seating.giver(seat)
            if (state, name) == (move.state, move.range.name) and giver is not None:
                near = move.source is None or seating.old_nodes.get(giver) == node
                assert not (near and (values[at] >= 0).any())


@pytest.mark.parametrize("numerics", [FLOAT32, BF16])
def test_one_layer_across_a_cut_moves_with_its_states_and_nothing_else(numerics: Numerics) -> None:
    config = with_experts(replace(SMOLLM2, layers=4), 2)
    old, new = cut_at(config, 2), cut_at(config, 1)
    workload = replace(TRAINING, numerics=numerics)
    found = diff(config, old, new, workload, seated_by_device(old, new))
    layer = [tensor for tensor in tensors(config) if ".layers.1." in tensor.name]
    parts = [(move.state, move.range.part) for move in found.moves]
    whole = [(state, tensor) for state in ("weights", "optimizer") for tensor in layer]
    narrow = [tensor for tensor in layer if numerics is BF16 and not tensor.role.exact]
    assert parts == whole + [("masters", tensor) for tensor in narrow]
    assert all(move.range.elements == move.range.part.elements for move in found.moves)
    assert {(move.to, move.source) for move in found.moves} == {(Seat(0, 1, 0), Seat(0, 0, 0))}
    size, _, states = state_bytes(Parameters.of(layer), workload, 1)
    assert (found.weight_bytes, found.optimizer_bytes) == (size, states)
    assert found.received == {Seat(0, 1, 0): size + states}
    assert found.given == {Seat(0, 0, 0): size + states}


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


def test_replicas_that_change_places_move_the_moments_alone() -> None:
    config = replace(SMOLLM2, layers=4)
    old, new = replicas(config, "a/0", "a/1"), replicas(config, "a/1", "a/0")
    seating = seated_by_device(old, new)
    assert diff(config, old, new, replace(TRAINING, zero=0), seating).moves == ()
    found = diff(config, old, new, TRAINING, seating)
    assert found.weight_bytes == 0
    _, _, states = state_bytes(Parameters.of(tensors(config)), TRAINING, 1)
    assert found.optimizer_bytes == states


def test_a_replica_that_goes_gives_its_moments_to_the_one_that_stays() -> None:
    """It has no seat in the new plan, but lives until it has given what it holds."""
    config = replace(SMOLLM2, layers=4)
    old, new = replicas(config, "a/0", "b/0"), replicas(config, "a/0")
    found = diff(config, old, new, TRAINING, seated_by_device(old, new))
    assert found.weight_bytes == 0
    assert found.given == {Seat(1, 0, 0): found.bytes} == {Seat(1, 0, 0): found.optimizer_bytes}
    lost = replace(seated_by_device(old, new), lost=frozenset({Seat(1, 0, 0)}))
    alone = diff(config, old, new, TRAINING, lost)
    assert sum(move.size for move in alone.lost) == alone.bytes == found.bytes


def test_a_new_replica_is_given_weights_by_all_alike() -> None:
    config, serving = replace(SMOLLM2, layers=8), replace(TRAINING, training=False)
    old = replicas(config, "a/0", "a/1", "a/2", "b/3")
    new = replicas(config, "a/4", "a/1", "a/2", "b/3")
    found = diff(config, old, new, serving, seated_by_device(old, new))
    assert found.given.keys() == set(old.seats)
    largest = max(move.size for move in found.moves)
    assert max(found.given.values()) - min(found.given.values()) <= largest
    near = diff(config, old, new, serving, seated_by_device(old, new, EVERYWHERE))
    assert near.given.keys() == {Seat(replica, 0, 0) for replica in range(3)}


def test_plans_for_another_model_are_refused() -> None:
    plan = single(SMOLLM2)
    with pytest.raises(PlanError, match="make a plan for this model"):
        diff(with_experts(SMOLLM2, 8), plan, plan, TRAINING, seated_by_device(plan, plan))
