"""Where the prompts of a load come from: a file, a tokenizer or a range of token ids."""

from dataclasses import dataclass
from pathlib import Path

from moe.errors import ConfigError
from pipelines.loading.prompt import Prompt
from pipelines.loading.prompt_file import read_prompts
from pipelines.loading.random_prompts import Lengths, random_ids, random_texts
from pipelines.loading.tokenizer import LoadTokenizer

INPUT_TOKENS = 64


@dataclass(frozen=True, slots=True)
class PromptSource:
    """A file; or random prompts, as text by a tokenizer, or as ids below ``vocabulary``."""

    file: Path | None = None
    tokenizer: LoadTokenizer | None = None
    vocabulary: int | None = None
    input_tokens: int | None = None
    shared_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.file is not None:
            self._refuse_random()
        elif self.tokenizer is None and self.vocabulary is None:
            raise ConfigError(
                "there is nothing to ask; give --prompts FILE, or --tokenizer DIR for random text, "
                "or --vocabulary N for random token ids"
            )
        elif self.tokenizer is not None and self.vocabulary is not None:
            raise ConfigError(
                "--tokenizer makes prompts as text, --vocabulary as token ids; give one of them"
            )

    def prompts(self, requests: int | None, seed: int) -> list[Prompt]:
        """Return all of the file, or a random prompt for each request."""
        if self.file is not None:
            return read_prompts(self.file)
        tokens = INPUT_TOKENS if self.input_tokens is None else self.input_tokens
        lengths = Lengths(tokens, self.shared_tokens or 0)
        count = requests or 1
        if self.tokenizer is not None:
            return random_texts(lengths, self.tokenizer, count, seed)
        return random_ids(lengths, self.vocabulary or 0, count, seed)

    def _refuse_random(self) -> None:
        random = {
            "--input-tokens": self.input_tokens,
            "--shared-tokens": self.shared_tokens,
            "--vocabulary": self.vocabulary,
        }
        given = [name for name, value in random.items() if value is not None]
        if given:
            raise ConfigError(
                f"{given[0]} is for random prompts and has no effect with --prompts; remove it"
            )
