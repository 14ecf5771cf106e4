"""What is frozen has weights and nothing else: no gradients, moments, snapshots or copies."""

from dataclasses import replace
from typing import Any

import pytest

from moe.config.share import whole
from moe.config.tensors import parameters, tensors
from moe.config.tuning import Lora, Tuning
from moe.planning.counts.memory import Position, rank_bytes
from moe.planning.counts.work import layer_parameters, layer_work
from moe.planning.counts.workload import BF16, FLOAT32, Workload
from moe.planning.devices.inventory import CPU, Device, Inventory
from moe.planning.search.make import make_replicas
from moe.planning.search.pins import Pins
from tests.plans import SMOLLM2, with_experts

WORK = Workload(512, 2, 8, snapshots=True, copies=True)
ENDS = Tuning(freeze=("model.embed_tokens.*",))
FACTORS = Tuning(lora=Lora(8, 16.0, ("attention", "experts")))


def need(tuning: Tuning | None, work: Workload = WORK, replicas: int = 1) -> Any:
    config = replace(with_experts(SMOLLM2, 4), tuning=tuning)
    return rank_bytes(config, whole(config), Position(), work, replicas=replicas)


def test_a_frozen_embedding_takes_its_weights_alone() -> None:
    rows = SMOLLM2.vocab_size * SMOLLM2.hidden_size
    all_of_it, less = need(None), need(ENDS)
    assert less.weights == all_of_it.weights
    assert all_of_it.gradients - less.gradients == 4 * rows
    assert all_of_it.optimizer - less.optimizer == 8 * rows
    assert all_of_it.snapshot - less.snapshot == 12 * rows
    assert all_of_it.copies - less.copies == 4 * 12 * rows


@pytest.mark.parametrize(("numerics", "weight"), [(FLOAT32, 4), (BF16, 2)])
def test_with_lora_only_factors_have_states(numerics: Any, weight: int) -> None:
    config = replace(with_experts(SMOLLM2, 4), tuning=FACTORS)
    factors = sum(each.elements for each in tensors(config) if each.role.factor)
    found = need(FACTORS, replace(WORK, numerics=numerics), replicas=2)
    exact = sum(each.elements for each in tensors(config) if each.role.exact and each.role.frozen)
    model = parameters(replace(config, tuning=None))
    assert found.weights == weight * (model - exact) + 4 * (exact + factors)
    assert found.gradients == 4 * factors
    assert found.optimizer == 4 * factors
    assert found.snapshot == 6 * factors
    assert found.copies == 4 * 6 * factors


def test_a_frozen_layer_has_a_backward_pass_of_its_inputs_alone() -> None:
    share = whole(SMOLLM2)
    plain = layer_work(SMOLLM2, share, 0, WORK)
    frozen = layer_work(replace(SMOLLM2, tuning=Tuning(freeze=("*.layers.*",))), share, 0, WORK)
    assert frozen.forward == plain.forward
    assert plain.backward.flops == 2 * plain.forward.flops
    assert (frozen.backward.flops, frozen.backward.bytes) == (frozen.forward.flops, 0)


def test_of_layers_that_differ_the_search_counts_the_most() -> None:
    config = replace(SMOLLM2, tuning=Tuning(freeze=("model.layers.0.*", "model.layers.1.mlp.*")))
    found = layer_parameters(config, whole(config), 0)
    assert found.frozen == 0
    every = replace(SMOLLM2, tuning=Tuning(freeze=("*.mlp.*",)))
    assert layer_parameters(every, whole(every), 0).frozen == 3 * 576 * 1536


def test_a_plan_fits_where_training_all_does_not() -> None:
    config = with_experts(SMOLLM2, 8)
    device = Device("one/0", "one", CPU, int(4.2e9), 4)
    pins, inventory = Pins(stages=1, gang=1, replicas=1), Inventory((device,))
    work = Workload(128, 1, 8, snapshots=True)
    tuned = replace(config, tuning=FACTORS)
    plan = make_replicas(tuned, inventory, pins, work, 1)
    assert plan.ranks == 1
    with pytest.raises(Exception, match="memory"):
        make_replicas(config, inventory, pins, work, 1)
