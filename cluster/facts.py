"""What only a node itself can tell: its processor, and the names and memory of its GPUs.

Ray knows a GPU by a word of its driver's name, the same for an A100 of 40 and of 80 GB, and a CPU
by its cores alone. So a short task asks on the node.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.nodes import Node
from moe.planning.devices.kinds import kind_of_gpu
from moe.planning.devices.processor import processor_name

SECONDS = 30.0
"""How long a node may take to answer; importing torch and waking a driver takes a few seconds."""


@dataclass(frozen=True, slots=True)
class Facts:
    """The name of the processor, and name and bytes of every GPU that a process sees."""

    processor: str
    gpus: tuple[tuple[str, int], ...] = ()


_TOLD: dict[str, Facts] = {}
"""What nodes have told this process, by Ray's number of the node; no two nodes ever share one."""


def facts_here(gpus: bool) -> Facts:
    """Return the facts of this machine; its GPUs only where asked for, which imports torch."""
    if not gpus:
        return Facts(processor_name())
    import torch

    every = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return Facts(processor_name(), tuple((each.name, each.total_memory) for each in every))


def asked(nodes: Sequence[Node], seconds: float = SECONDS) -> tuple[Node, ...]:
    """Return the nodes with what they tell of themselves; those that do not answer, unchanged.

    Takes no resource of a node, so busy nodes answer too. A node that has answered is not asked
    again. Nor is a lone node without GPUs: there is nothing to tell it from.
    """
    several = len(nodes) > 1
    _ask([node for node in nodes if node.id not in _TOLD and (node.gpus or several)], seconds)
    return tuple(told(node, _TOLD) for node in nodes)


def _ask(nodes: Sequence[Node], seconds: float) -> None:
    """Keep what nodes tell within so many seconds."""
    if not nodes:
        return
    task = ray.remote(num_cpus=0, max_calls=1)(facts_here)
    answers = {
        task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)
        ).remote(node.gpus > 0): node.id
        for node in nodes
    }
    done, late = ray.wait([*answers], num_returns=len(answers), timeout=seconds)
    for each in late:
        ray.cancel(each, force=True)
    for each in done:
        with suppress(RayError):
            _TOLD[answers[each]] = ray.get(each)


def told(node: Node, found: Mapping[str, Facts]) -> Node:
    """Return a node with its facts, found by its number; GPUs that a process there does not see
    change nothing.
    """
    facts = found.get(node.id)
    if facts is None:
        return node
    node = replace(node, processor=facts.processor)
    if not (node.gpus and facts.gpus):
        return node
    product, memory = min(facts.gpus, key=lambda gpu: gpu[1])
    return replace(node, gpu_kind=kind_of_gpu(product, memory), gpu_memory_bytes=memory)
