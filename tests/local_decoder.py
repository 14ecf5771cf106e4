"""A model that generates in this process: what the server talks to where there is no Ray."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from moe.checkpoint.reader import Checkpoint
from moe.config.sampling import SampledToken
from moe.nn.build import build
from moe.nn.decoder import Pass, SequenceCache
from moe.nn.sampling import Draw, sample, score


class LocalDecoder:
    """The whole model; ``before`` runs ahead of every step, to wait or to raise what a test wants.

    ``steps`` lists the tokens fed, ``sequences`` the caches in use.
    """

    def __init__(self, model: Path, before: Callable[[], None] = lambda: None) -> None:
        checkpoint = Checkpoint.open(model)
        self._decoder = build(checkpoint.config, checkpoint.read)
        self.before = before
        self.steps: list[tuple[int, ...]] = []
        self.sequences: dict[str, SequenceCache] = {}
        self.alive = True

    def infer(self, sequence: str, tokens: Sequence[int], draw: Draw) -> SampledToken:
        """Append tokens and draw the next."""
        return sample(self._extend(sequence, tokens)[-1:], [draw])[0]

    def score(
        self, sequence: str, tokens: Sequence[int], following: Sequence[int], logprobs: int
    ) -> list[SampledToken]:
        """Append tokens and score those that follow."""
        return score(self._extend(sequence, tokens), following, logprobs)

    def _extend(self, sequence: str, tokens: Sequence[int]) -> torch.Tensor:
        self.before()
        self.steps.append(tuple(tokens))
        cache = self.sequences.setdefault(sequence, SequenceCache(self._decoder.share))
        with torch.inference_mode():
            return self._decoder(torch.tensor([list(tokens)]), Pass(cache=cache)).values[0]

    def release(self, sequence: str) -> None:
        """Forget a sequence."""
        self.sequences.pop(sequence, None)

    def healthy(self) -> bool:
        """Tell whether it was not shut down."""
        return self.alive

    def shutdown(self) -> None:
        """End."""
        self.alive = False
        self.sequences.clear()
