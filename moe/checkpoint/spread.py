"""Divides the weights among the replicas for writing: every replica holds every weight."""

from collections import Counter
from collections.abc import Iterator, Sequence

from moe.config.model import ModelConfig
from moe.config.share import Share
from moe.config.tensors import TensorSlice, answers_for, held_by


def writers(config: ModelConfig, gang: Sequence[Share], replicas: int) -> dict[str, int]:
    """Return the replica that writes each tensor of a gang, by name.

    The result is the same on every member of the gang in every replica. Each next tensor goes to
    the replica of its member with the fewest elements so far.
    """
    load: Counter[tuple[int, int]] = Counter()
    chosen: dict[str, int] = {}
    for member, tensor in _written(config, gang):
        replica = min(range(replicas), key=lambda each: (load[member, each], each))
        load[member, replica] += max(tensor.elements, 1)
        chosen[tensor.name] = replica
    return chosen


def _written(config: ModelConfig, gang: Sequence[Share]) -> Iterator[tuple[int, TensorSlice]]:
    """Yield every tensor that the gang writes, with the member that writes it."""
    seen = set()
    for member, share in enumerate(gang):
        for tensor in held_by(config, share):
            if tensor.name not in seen and answers_for(config, share, tensor):
                seen.add(tensor.name)
                yield member, tensor.whole
