"""Skywork-MoE on 1,536 A800, simulated: what efficiency gives its speed, and what our plan gives.

``pipelines.study.skywork`` says what the paper states and what is taken. One number is left: the
part of the peak that products reach. It is found by bisection, and the
cost model is checked to hold it
(``moe.planning.devices.rates.EFFICIENCY``).
"""

import argparse

from benchmarks.results import finish, options, parse
from moe.config.tensors import active_parameters
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import Inventory
from moe.planning.devices.rates import EFFICIENCY, GPUS
from moe.planning.plan.plan import Plan
from moe.planning.prediction.predict import Prediction, predict
from moe.planning.search.make import even_layers
from moe.planning.search.pins import NO_PINS
from moe.planning.search.search import Found
from pipelines.study.skywork import (
    CONFIG,
    GPUS_PER_NODE,
    KIND,
    LENGTH,
    NODES,
    PUBLISHED,
    SHAPE,
    cluster,
    trained,
)

CLOSE = 0.01


def main() -> None:
    """Calibrate, then plan."""
    arguments = _arguments()
    found = _efficiency()
    inventory = cluster(found)
    planned = trained(inventory, SHAPE)
    paper = _predict(even_layers(planned.plan), planned.workload, inventory)
    rows = [_row("as published, even layers", planned.plan, paper, even=True)]
    rows.append(_row("our layers, same shape", planned.plan, _of(planned, inventory)))
    free = trained(inventory, NO_PINS)
    rows.append(_row(f"our shape: {free.best.shape}", free.plan, _of(free, inventory)))
    missed = []
    if abs(found / EFFICIENCY - 1) > CLOSE:
        missed.append(f"the efficiency is {found:.3f}, the cost model has {EFFICIENCY}")
    title = f"Skywork-MoE on {NODES * GPUS_PER_NODE} {KIND} at {found:.3f} of the peak, simulated"
    finish(arguments, title, rows, missed)


def _arguments() -> argparse.Namespace:
    return parse(options(__doc__ or "", material=False))


def _efficiency() -> float:
    """Return the part of the peak at which the published speed comes out."""
    low, high = 0.2, 1.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        inventory = cluster(middle)
        planned = trained(inventory, SHAPE)
        paper = _predict(even_layers(planned.plan), planned.workload, inventory)
        if _per_gpu(paper) < PUBLISHED:
            low = middle
        else:
            high = middle
    return low


def _of(found: Found, inventory: Inventory) -> Prediction:
    return _predict(found.plan, found.workload, inventory)


def _predict(plan: Plan, workload: Workload, inventory: Inventory) -> Prediction:
    return predict(CONFIG, plan, inventory, workload)


def _per_gpu(predicted: Prediction) -> float:
    return predicted.tokens_per_second / (NODES * GPUS_PER_NODE)


def _row(what: str, plan: Plan, predicted: Prediction, even: bool = False) -> dict[str, object]:
    shown = even_layers(plan) if even else plan
    layers = [len(stage.layer_numbers) for stage in shown.stages]
    flops = 6.0 * active_parameters(CONFIG) + 12.0 * CONFIG.layers * CONFIG.hidden_size * LENGTH
    tokens = _per_gpu(predicted)
    return {
        "what": what,
        "layers": " ".join(map(str, layers)),
        "step s": predicted.step_seconds,
        "tokens/s/GPU": tokens,
        "MFU": tokens * flops / GPUS[KIND].sixteen_bit_flops,
        "bubble": max(predicted.timeline.bubble),
        "fullest": max(need.total for need in predicted.rank_bytes) / GPUS[KIND].memory_bytes,
    }


if __name__ == "__main__":
    main()
