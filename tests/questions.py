"""Small questions to a planner, drawn from a seed: models, devices and links of every sort."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from moe.config.model import ModelConfig, MoeConfig
from moe.config.share import whole
from moe.planning.counts.memory import Position, RankBytes, rank_bytes
from moe.planning.counts.workload import NUMERICS, Workload
from moe.planning.devices.inventory import Device, Inventory
from moe.planning.devices.links import Link
from moe.planning.devices.pace import PRECISIONS, Profile
from moe.planning.devices.rates import CPU_THREAD
from moe.planning.search.question import Question


def draw_model(random: Random, layers: int) -> ModelConfig:
    """Draw a model of so many layers: dense, with experts, or of both kinds."""
    kv_heads = random.choice([1, 2, 3])
    config = ModelConfig(
        family="raymoe",
        vocab_size=random.choice([40, 300, 2000]),
        hidden_size=random.choice([16, 64]),
        layers=layers,
        heads=kv_heads * random.choice([1, 2]),
        kv_heads=kv_heads,
        head_size=16,
        ffn_size=random.choice([50, 200]),
        norm_eps=1e-5,
        rope_theta=1e4,
        max_positions=4096,
        tie_embeddings=random.random() < 0.4,
    )
    if random.random() < 0.4:
        return config
    shared = random.choice([0, 0, 30])
    dense = [layer for layer in range(layers) if random.random() < 0.4]
    experts = random.choice([2, 4, 7])
    moe = MoeConfig(
        experts=experts,
        top_k=random.randint(1, 2),
        expert_size=random.choice([20, 200]),
        dense_layers=tuple(dense[: layers - 1]),
        shared_size=shared,
    )
    return replace(config, moe=moe)


def draw_workload(random: Random, training: bool = True) -> Workload:
    """Draw a workload; its micro-batches are for the search to choose."""
    return Workload(
        sequence_length=random.choice([16, 64]),
        micro_batch=1,
        micro_batches=1,
        training=training,
        pass_tokens=random.choice([8, 512]),
        schedule="gpipe" if random.random() < 0.15 else "1f1b",
        numerics=random.choice(list(NUMERICS.values())),
        zero=random.randint(0, 3),
        imbalance=random.choice([1.0, 1.0, 1.7]),
        capacity_factor=random.choice([None, 1.25]),
    )


PROFILES = tuple(
    Profile(kind, 1, CPU_THREAD, precision=precision)
    for kind in ("gpu-x", "gpu-y")
    for precision in PRECISIONS
)
"""What is known of kinds that no table has: as fast as a CPU thread, before their own speed."""


def draw_inventory(
    random: Random, count: int, need: RankBytes, rooms: Sequence[float]
) -> Inventory:
    """Draw devices with memory for some part of the tensors of a need, and links between them."""
    most = need.total - need.process
    kinds = random.choice([["cpu"], ["cpu"], ["gpu-x"], ["gpu-x", "gpu-y"]])
    nodes = "abc"[: random.randint(1, 3)]
    room = [random.choice(rooms) for _ in range(random.randint(1, 2))]
    speeds = random.choice([[1.0], [1.0, 2.0], [0.5, 1.0, 3.7]])
    threads = random.choice([[1], [1, 2]])
    devices = tuple(
        Device(
            name=f"d{number}",
            node=random.choice(nodes),
            kind=random.choice(kinds),
            memory_bytes=need.process + int(most * random.choice(room)),
            threads=random.choice(threads),
            speed=random.choice(speeds),
        )
        for number in range(count)
    )
    links = _draw_links(random, sorted({each.node for each in devices}))
    return Inventory(devices, links, PROFILES)


def draw_question(
    seed: int, most_layers: int = 7, most_devices: int = 5, training: bool = True
) -> Question:
    """Draw a question about a model that fits with room to spare, or just about, or not at all."""
    random = Random(seed)
    layers = min(most_layers, random.choice([1, 2, 2, 3, 3, 4, 4, 5, 6, 7]))
    count = min(most_devices, random.choice([1, 2, 2, 3, 3, 4, 4, 5, 6, 7]))
    config, workload = draw_model(random, layers), draw_workload(random, training)
    needs = rank_bytes(config, whole(config), Position(), workload)
    rooms = random.choice([(0.6, 1.5), (0.3, 0.45), (4.0, 4.0), (10.0, 1.0)])
    inventory = draw_inventory(random, count, needs, rooms)
    return Question(config, inventory, workload, random.choice([1, 2, 3, 4, 4, 6, 8]))


def _draw_links(random: Random, nodes: list[str]) -> tuple[Link, ...]:
    pairs = [(one, other) for one in nodes for other in nodes if one < other]
    links = []
    for named in [*((node,) for node in nodes), *pairs]:
        if random.random() < 0.6:
            speed = random.choice([0.0, 1e7, 1e8, 1.5e9, 1e10])
            links.append(Link(named, speed, random.choice([0.0, 1e-5, 2e-4])))
    return tuple(links)
