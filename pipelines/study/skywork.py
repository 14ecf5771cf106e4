"""The machines of Skywork-MoE as its report gives them, for simulations.

Training (section B.3): 192 nodes of eight A800, 12 stages x gang of 4 (TP = EP) x 32 replicas with
ZeRO-1, sequences of 8,192. Taken here, since the report does not say: 2,048 sequences a step (the
16 million tokens of its parent), layers as even as 52 over 12 allow, nothing overlapped, 200 GB/s
between the GPUs of a node and an eighth of its 800 Gb/s to other nodes.
"""

from moe.config.presets import preset
from moe.config.quantised import form_named
from moe.planning.counts.workload import BF16, MEGATRON, Workload
from moe.planning.devices.inventory import Device, Inventory
from moe.planning.devices.links import ANY, Link
from moe.planning.devices.pace import Profile
from moe.planning.devices.rates import GPUS, Rates
from moe.planning.search.pins import Pins
from moe.planning.search.search import Found, Question, search

CONFIG = preset("skywork-moe-146b").config
NODES, GPUS_PER_NODE, KIND = 192, 8, "A800"
SEQUENCES, LENGTH = 2048, 8192
PUBLISHED = 690.0
"""Tokens a second and GPU."""

SHAPE = Pins(stages=12, gang=4, replicas=32, micro_batch=1)
CARD_BYTES, USED = 24e9, 0.95
"""Of a 4090, and the part of it that the published server uses."""


def cluster(efficiency: float) -> Inventory:
    """Return the 1,536 A800, whose products reach a part of the peak of the data sheet."""
    gpu = GPUS[KIND]
    known = gpu.rates(sixteen_bit=True)
    rates = Rates(gpu.sixteen_bit_flops * efficiency, known.bytes_per_second)
    source = f"{efficiency:.3f} of the peak"
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
        profiles=(Profile(KIND, 8, rates, source=source, precision=BF16.name),),
    )


def trained(inventory: Inventory, pins: Pins) -> Found:
    """Return the best plan to train Skywork-MoE there, of those that the pins allow."""
    workload = Workload(LENGTH, 1, 1, numerics=MEGATRON)
    return search(Question(CONFIG, inventory, workload, SEQUENCES, pins))


def server() -> Inventory:
    """Return the server of eight 4090."""
    cards = (Device(f"gpu-{n}", "server", "4090", int(USED * CARD_BYTES)) for n in range(8))
    return Inventory(tuple(cards))


def serving() -> Workload:
    """Return what the server does: weights in fp8, keys and values in 16 bits."""
    weights = form_named("fp8", CONFIG)
    return Workload(4096, 1, 1, training=False, numerics=BF16, gpus=True, weights=weights)


def served() -> Found:
    """Return the plan of the server that holds the most tokens of keys and values."""
    return search(Question(CONFIG, server(), serving(), 1, Pins(gang=8), "tokens"))
