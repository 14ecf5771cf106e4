"""What each expert of the larger model is made of: its parent, the noise, the gain."""

from moe.config.role import Role
from moe.config.tensors import TensorSlice
from moe.surgery.change import Change, Noise, Opposite
from moe.surgery.growing.options import Growth
from moe.surgery.growing.parents import Parents, copy_numbers
from moe.surgery.part import Part


def part_of(parent: TensorSlice, child: Role, parents: Parents, grown: Growth) -> Part:
    """Return how a matrix of a new expert is made of that of its parent."""
    expert = child.expert
    assert expert is not None
    number = copy_numbers(parents)[expert]
    if grown.options.keep == "function":
        change = _cancelling(parent, number, parents.count(parents[expert]), grown)
    else:
        change = Noise(grown.noise) if number and grown.noise else None
    return Part(gain=grown.gain, change=change)


def _cancelling(parent: TensorSlice, number: int, copies: int, grown: Growth) -> Change | None:
    """Return noise of the down projection that cancels between copies 0 and 1, 2 and 3, ...

    All copies have the same inner activation and weight, so their sum is that of their down
    projections. The last of an odd number of copies has no partner and no noise.
    """
    lonely = copies % 2 and number == copies - 1
    if parent.role.part != "down" or lonely:
        return None
    pair = number // 2
    words = (grown.options.seed, f"{parent.name}:{pair}")
    return Opposite(grown.noise, words, second=bool(number % 2))
