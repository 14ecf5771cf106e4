"""One sequence of a batcher: its tokens, how many of them are computed, and its blocks."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from moe.config.sampling import Sampling
from moe.nn.inference.rows import BLOCK, GONE
from pipelines.serving.batching.prefixes import Name, beginning, following

Mask = Callable[[], NDArray[np.int32] | None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted of a sequence: at most ``max_tokens`` after a prompt.

    ``scored``: log-probabilities of the tokens of the prompt, with that many alternatives; None:
    no. ``allowed`` gives the bit mask of the tokens that may come next, once all before are known;
    None: any may come. ``adapter`` is the number of what the ranks add to the model, 0 for nothing;
    sequences of one ``root`` share blocks.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling
    scored: int | None = None
    allowed: Mask | None = None
    adapter: int = 0
    root: Hashable = None

    @property
    def most_tokens(self) -> int:
        """Tokens of the prompt and the longest answer."""
        return len(self.prompt) + self.max_tokens


@dataclass(slots=True, eq=False)
class Sequence:
    """A sequence that waits or runs.

    ``tokens`` are prompt and generated, as far as they are known; ``unknown`` more are drawn in
    batches that are not back yet. So many scores of the prompt were ``asked`` for, and so many
    ``scored`` came back. ``computed`` positions are in the cache, or will be once the batches under
    way are done; ``table`` has their blocks, of which the pool knows the first ``named`` by name.
    With ``mixed``, the weights have changed since its first blocks, and no other sequence may use
    them.
    """

    number: int
    wanted: Wanted
    tokens: list[int]
    computed: int = 0
    unknown: int = 0
    begun: bool = False
    asked: int = 0
    scored: int = 0
    table: list[int] = field(default_factory=list)
    named: int = 0
    mixed: bool = False
    _names: list[Name] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Number of tokens, those that are not known yet among them."""
        return len(self.tokens) + self.unknown

    @property
    def generated(self) -> int:
        """Number of tokens after the prompt, those that are not known yet among them."""
        return self.length - len(self.wanted.prompt)

    @property
    def reading(self) -> bool:
        """Whether more than one token is to be computed, as while a prompt is read."""
        return self.length - self.computed > 1

    @property
    def full(self) -> bool:
        """Whether all tokens that are wanted are drawn."""
        return self.generated >= self.wanted.max_tokens

    def name(self, block: int) -> Name:
        """Return the name of a full block of known tokens; each is computed once."""
        while len(self._names) <= block:
            start = len(self._names) * BLOCK
            before = self._names[-1] if self._names else beginning(self.wanted.root)
            self._names.append(following(before, self.tokens[start : start + BLOCK]))
        return self._names[block]

    def blocks_for(self, positions: int) -> int:
        """Return how many blocks are missing for so many positions."""
        return max(0, -(-positions // BLOCK) - len(self.table))

    def left_behind(self, window: int | None) -> list[int]:
        """Take blocks out of the table that a sliding window has left, and return them."""
        if window is None:
            return []
        seen = max(0, self.computed - window + 1) // BLOCK
        gone = [block for block in self.table[:seen] if block != GONE]
        self.table[:seen] = [GONE] * seen
        return gone
