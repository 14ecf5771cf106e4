"""How the tokens of the running sequences are drawn, and what was drawn last."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from actors.commands import Batch, Drawing, Feed
from moe.config.sampling import SampledToken
from moe.errors import RankLost
from moe.nn.draw import Draw
from moe.nn.exchange import Exchange
from moe.nn.sampling import sample, score


@dataclass(slots=True)
class _Running:
    how: Drawing
    generated: list[int] = field(default_factory=list)


class Drawings:
    """The sequences that draw, from the batch in which each begins to that after its end."""

    def __init__(self) -> None:
        self._running: dict[int, _Running] = {}

    def follow(self, batch: Batch) -> None:
        """Forget the sequences that have ended and take up those that begin."""
        for sequence in batch.ended:
            self._running.pop(sequence, None)
        for sequence, how in batch.begun.items():
            self._running[sequence] = _Running(how, list(how.generated))

    def last(self, sequence: int) -> tuple[int, ...]:
        """Return the token that was drawn last for a sequence, as all of a feed."""
        running = self._running.get(sequence)
        if running is None or not running.generated:
            raise RankLost(f"sequence {sequence} has drawn no token here; begin it again")
        return (running.generated[-1],)

    def scored(
        self, feeds: Sequence[Feed], logits_SV: Tensor
    ) -> Mapping[int, tuple[SampledToken, ...]]:
        """Return log-probabilities of the tokens that follow in prompts."""
        found, start = {}, 0
        for feed in feeds:
            if feed.targets:
                stop = start + len(feed.targets)
                scores = score(logits_SV[start:stop], feed.targets, feed.alternatives)
                found[feed.sequence] = tuple(scores)
                start = stop
        return found

    def draw(
        self, feeds: Sequence[Feed], logits_RV: Tensor, gang: Exchange
    ) -> Mapping[int, SampledToken]:
        """Draw the next token of each feed, as the leader of the gang does where members differ."""
        if not feeds:
            return {}
        tokens = sample(logits_RV, [self._draw(feed) for feed in feeds])
        agreed = gang.agree(torch.tensor([each.token for each in tokens])).tolist()
        for feed, token in zip(feeds, agreed, strict=True):
            self._running[feed.sequence].generated.append(token)
        return {feed.sequence: each for feed, each in zip(feeds, tokens, strict=True)}

    def _draw(self, feed: Feed) -> Draw:
        running = self._running.get(feed.sequence)
        if running is None:
            raise RankLost(f"sequence {feed.sequence} draws and never began here; begin it again")
        how = running.how
        position = feed.position + feed.count
        return Draw(how.sampling, position, how.prompt, running.generated, feed.allowed)
