"""Batches of one sequence whose blocks are the first of the memory."""

from collections.abc import Iterator

from actors.commands import Answering, Batch, BatchOutput, Drawing, Feed
from moe.config.sampling import SampledToken, Sampling

HOW = Answering(blocks=8)


def fed(
    tokens: tuple[int, ...],
    position: int = 0,
    sampling: Sampling | None = None,
    prompt: int | None = None,
) -> Batch:
    """Return a batch that draws the token after these; so many first ones are the prompt."""
    feed = Feed(1, tokens, position, tuple(range(HOW.blocks)), draws=True, prompt=prompt)
    begun = {1: Drawing(sampling or Sampling(), tokens)} if position == 0 else {}
    return Batch(position + 1, (feed,), begun)


def drawn(answers: Iterator[BatchOutput | None] | list[BatchOutput | None]) -> SampledToken:
    """Return what ranks drew for the one sequence."""
    (output,) = (each for each in answers if each is not None)
    return output.drawn[1]
