"""What changes owner between two plans: the tensors a rank needs and did not hold."""

from collections.abc import Iterator
from dataclasses import dataclass

from moe.config.model import ModelConfig
from moe.config.tensors import TensorSlice, held_by
from moe.planning.plan import Plan


@dataclass(frozen=True, slots=True)
class Move:
    """A span of a tensor that one rank of the new plan needs and did not hold under the old."""

    rank: int
    tensor: TensorSlice


def diff(config: ModelConfig, old: Plan, new: Plan) -> Iterator[Move]:
    """Yield what each rank of ``new`` holds that the rank of the same number in ``old`` does not.

    A span inside what was held is no move; one that grew is yielded whole, because a holder reads
    it in one piece.
    """
    old.check_model(config)
    new.check_model(config)
    for number in range(new.ranks):
        before: dict[str, TensorSlice] = {}
        if number < old.ranks:
            before = {part.name: part for part in held_by(config, old.share(number))}
        for tensor in held_by(config, new.share(number)):
            if not _covers(before.get(tensor.name), tensor):
                yield Move(number, tensor)


def _covers(held: TensorSlice | None, wanted: TensorSlice) -> bool:
    if held is None or held.dim is None:
        return held is not None
    return held.dim == wanted.dim and held.start <= wanted.start and wanted.stop <= held.stop
