"""The names of a sequence's blocks."""

from moe.config.sampling import Sampling
from moe.nn.inference.rows import BLOCK
from pipelines.serving.batching.prefixes import beginning, following
from pipelines.serving.batching.sequence import Sequence, Wanted


def sequence(tokens: list[int]) -> Sequence:
    return Sequence(1, Wanted(tuple(tokens), 4, Sampling()), tokens)


def test_a_name_says_all_tokens_up_to_the_end_of_its_block() -> None:
    tokens = list(range(3 * BLOCK))
    first = following(beginning(None), tokens[:BLOCK])
    assert sequence(tokens).name(1) == following(first, tokens[BLOCK : 2 * BLOCK])
    assert sequence([9, *tokens[1:]]).name(2) != sequence(tokens).name(2)


def test_a_name_is_computed_once_also_when_blocks_are_given_up() -> None:
    """A prompt that waits for room asks for its names at every batch."""
    waiting = sequence(list(range(3 * BLOCK)))
    names = [waiting.name(block) for block in range(3)]
    waiting.table, waiting.named, waiting.computed = [], 0, 0
    assert all(waiting.name(block) is name for block, name in enumerate(names))
