"""Random prompts of an exact number of tokens, with a common beginning if asked for."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from moe.errors import ConfigError, DataError
from pipelines.loading.prompt import Prompt
from pipelines.loading.tokenizer import LoadTokenizer

WORDS = 512
"""Different words that random text is made of, at most."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of a prompt, and how many of them all prompts begin with."""

    tokens: int
    shared: int = 0

    def __post_init__(self) -> None:
        if self.tokens < 1 or not 0 <= self.shared <= self.tokens:
            raise ConfigError(
                f"prompts of {self.tokens} tokens cannot share {self.shared}; give --input-tokens "
                "above 0 and --shared-tokens between 0 and that"
            )


def random_ids(lengths: Lengths, vocabulary: int, count: int, seed: int) -> list[Prompt]:
    """Return prompts of token ids below ``vocabulary``."""
    if vocabulary < 1:
        raise ConfigError(f"--vocabulary is {vocabulary}; give the number of tokens of the model")
    return [Prompt(ids=ids) for ids in _drawn(lengths, vocabulary, count, seed)]


def random_texts(lengths: Lengths, tokenizer: LoadTokenizer, count: int, seed: int) -> list[Prompt]:
    """Return prompts of words that are one token each, whatever other word stands beside them."""
    words = _words(tokenizer, np.random.default_rng(seed))
    prompts = []
    for picked in _drawn(lengths, len(words), count, seed):
        text = tokenizer.text([words[place] for place in picked])
        found = tokenizer.count(text)
        if found != lengths.tokens:
            raise DataError(
                f"a text of {lengths.tokens} tokens became {found} by this tokenizer; give "
                "--vocabulary N in place of --tokenizer, for prompts of token ids"
            )
        prompts.append(Prompt(text=text))
    return prompts


def _drawn(lengths: Lengths, below: int, count: int, seed: int) -> Iterator[tuple[int, ...]]:
    generator = np.random.default_rng(seed)
    shared = generator.integers(below, size=lengths.shared)
    for _ in range(count):
        own = generator.integers(below, size=lengths.tokens - lengths.shared)
        yield tuple(int(number) for number in (*shared, *own))


def _words(tokenizer: LoadTokenizer, generator: np.random.Generator) -> list[int]:
    """Return tokens that stay what they are beside any other of them: words, or else letters."""
    shuffled = [int(token) for token in generator.permutation(np.array(tokenizer.ordinary))]
    for fits in (_begins_a_word, _is_a_letter):
        found = list(islice((token for token in shuffled if fits(tokenizer, token)), WORDS))
        if found:
            return found
    raise DataError(
        "no token of this tokenizer is a word or a letter of its own; give --vocabulary N in place "
        "of --tokenizer, for prompts of token ids"
    )


def _begins_a_word(tokenizer: LoadTokenizer, token: int) -> bool:
    """Tell whether a token is a space and letters, and twice itself is two tokens."""
    text = tokenizer.text([token, token]).strip()
    word = text.partition(" ")[0]
    return _spells(word) and text == f"{word} {word}" and tokenizer.count(text) == 2


def _is_a_letter(tokenizer: LoadTokenizer, token: int) -> bool:
    text = tokenizer.text([token, token])
    return len(text) == 2 and _spells(text) and tokenizer.count(text) == 2


def _spells(text: str) -> bool:
    return text.isascii() and text.isalpha()
