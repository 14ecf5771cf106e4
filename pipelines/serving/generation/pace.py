"""How many tokens of long prompts may go into a batch beside the sequences that generate.

A batch takes longer with every token of a prompt in it, and all sequences that generate wait for
it. So the time of a batch with parts of long prompts is kept below ``STRETCH`` times that of one
without, by what batches have taken so far.
"""

STRETCH = 2.0
_LEAST_TOKENS = 16
_KEPT = 0.8
"""Weight of the past in what a batch takes."""


class Pace:
    """``most`` tokens of prompts go into a batch in which no sequence generates.

    Batches without prompts are told apart by the power of two below the number of their rows.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._generating: dict[int, float] = {}
        self._each: float | None = None

    def tokens(self, generating: int) -> int:
        """Return the most tokens of long prompts beside so many sequences that generate."""
        alone = self._alone(generating)
        if alone is None or not self._each:
            return self._most
        fitting = int((STRETCH - 1) * alone / self._each)
        return min(self._most, max(fitting, _LEAST_TOKENS))

    def took(self, seconds: float, prompt_tokens: int, generating: int) -> None:
        """Note what a batch has taken."""
        if prompt_tokens:
            rest = max(seconds - (self._alone(generating) or 0.0), 0.0)
            self._each = _mean(self._each, rest / prompt_tokens)
        else:
            size = generating.bit_length()
            self._generating[size] = _mean(self._generating.get(size), seconds)

    def _alone(self, generating: int) -> float | None:
        """Return what a batch of so many rows takes; of the next fewer known, where it was none."""
        sizes = [size for size in self._generating if size <= generating.bit_length()]
        return self._generating[max(sizes)] if generating and sizes else None


def _mean(before: float | None, now: float) -> float:
    return now if before is None else _KEPT * before + (1 - _KEPT) * now
