"""How many tokens of prompts may go into a batch beside the sequences that generate.

A batch takes longer with every token of a prompt in it, and all sequences that generate wait for
it. So the time of a batch with parts of prompts is kept below ``STRETCH`` times that of one
without, by what batches have taken so far.
"""

STRETCH = 2.5
_LEAST_TOKENS = 16
_KEPT = 0.8
"""Weight of the past in what a batch takes."""


class Pace:
    """``most`` tokens of prompts go into a batch in which no sequence generates."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._generating: float | None = None
        self._each: float | None = None

    def tokens(self, generating: int) -> int:
        """Return the most tokens of prompts beside so many sequences that generate."""
        if not generating or self._generating is None or not self._each:
            return self._most
        fitting = int((STRETCH - 1) * self._generating / self._each)
        return min(self._most, max(fitting, _LEAST_TOKENS))

    def took(self, seconds: float, prompt_tokens: int, generating: int) -> None:
        """Note what a batch has taken."""
        if not prompt_tokens:
            self._generating = _mean(self._generating, seconds)
            return
        alone = self._generating if generating and self._generating is not None else 0.0
        self._each = _mean(self._each, max(seconds - alone, 0.0) / prompt_tokens)


def _mean(before: float | None, now: float) -> float:
    return now if before is None else _KEPT * before + (1 - _KEPT) * now
