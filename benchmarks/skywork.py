"""Skywork-MoE on 1,536 A800, simulated: what efficiency gives its speed, and what our plan gives.

The paper states 12 stages x gang of 4 (TP = EP) x 32 replicas with ZeRO-1, sequences of 8,192, and
690 tokens a second and GPU; not the global batch, the layers of each stage, nor what overlaps.
Taken here: 2,048 sequences a step (the 16 million tokens of its parent), layers as even as 52 over
12 allow, nothing overlapped, 200 GB/s between the GPUs of a node and an eighth of its 800 Gb/s to
other nodes. Under these, one number is left: the part of the peak that products reach. It is found
by bisection, and the cost model is checked to hold it (``moe.planning.devices.rates.EFFICIENCY``).
"""

import argparse

from benchmarks.results import finish, options, parse
from moe.config.presets import preset
from moe.config.tensors import active_parameters
from moe.planning.counts.workload import BF16, MEGATRON, Workload
from moe.planning.devices.inventory import Device, Inventory
from moe.planning.devices.links import ANY, Link
from moe.planning.devices.pace import Profile
from moe.planning.devices.rates import EFFICIENCY, GPUS, Rates
from moe.planning.plan.plan import Plan
from moe.planning.prediction.predict import Prediction, predict
from moe.planning.search.make import even_layers
from moe.planning.search.pins import NO_PINS, Pins
from moe.planning.search.search import Found, Question, search

NODES, GPUS_PER_NODE, KIND = 192, 8, "A800"
SEQUENCES, LENGTH = 2048, 8192
PUBLISHED = 690.0
CLOSE = 0.01
PAPER = Pins(stages=12, gang=4, replicas=32, micro_batch=1)
CONFIG = preset("skywork-moe-146b").config


def main() -> None:
    """Calibrate, then plan."""
    arguments = _arguments()
    found = _efficiency()
    inventory = _cluster(found)
    planned = _search(inventory, PAPER)
    paper = _predict(even_layers(planned.plan), planned.workload, inventory)
    rows = [_row("as published, even layers", planned.plan, paper, even=True)]
    rows.append(_row("our layers, same shape", planned.plan, _of(planned, inventory)))
    free = _search(inventory, NO_PINS)
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
        inventory = _cluster(middle)
        planned = _search(inventory, PAPER)
        paper = _predict(even_layers(planned.plan), planned.workload, inventory)
        if _per_gpu(paper) < PUBLISHED:
            low = middle
        else:
            high = middle
    return low


def _cluster(efficiency: float) -> Inventory:
    gpu = GPUS[KIND]
    known = gpu.rates(sixteen_bit=True)
    rates = Rates(gpu.sixteen_bit_flops * efficiency, known.bytes_per_second)
    return Inventory(
        devices=tuple(
            Device(f"n{node}/{number}", f"n{node}", KIND, gpu.memory_bytes, threads=8)
            for node in range(NODES)
            for number in range(GPUS_PER_NODE)
        ),
        links=(
            Link((ANY,), gpu.link_bytes_per_second, 1e-5),
            Link((ANY, ANY), 100e9 / GPUS_PER_NODE, 2e-5),
        ),
        profiles=(
            Profile(KIND, 8, rates, source=f"{efficiency:.3f} of the peak", precision=BF16.name),
        ),
    )


def _search(inventory: Inventory, pins: Pins) -> Found:
    workload = Workload(LENGTH, 1, 1, numerics=MEGATRON)
    return search(Question(CONFIG, inventory, workload, SEQUENCES, pins))


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
