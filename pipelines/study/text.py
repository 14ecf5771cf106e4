"""The text of a study: files of the user or Python's standard library, and a small vocabulary."""

import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pipelines.corpus.documents import read_documents
from pipelines.corpus.inputs import TOKENIZER

VOCABULARY = 1024
END = "<end>"
_LEFT_OUT = ("site-packages", "dist-packages", "test", "tests")
"""What is installed beside the library, and tests, which some systems leave out."""


def library_text(to: Path) -> None:
    """Copy the modules of the standard library of this Python as text, in UTF-8."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        if any(part in _LEFT_OUT for part in inside.parts):
            continue
        copy = to / inside.parts[0].removesuffix(".py") / ("-".join(inside.parts) + ".txt")
        copy.parent.mkdir(parents=True, exist_ok=True)
        with tokenize.open(path) as module:
            copy.write_text(module.read(), encoding="utf-8")


def write_vocabulary(text: Path, to: Path) -> None:
    """Write a tokenizer of ``VOCABULARY`` byte pairs, found in the text itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(text), trainer)
    tokenizer.save(str(to / TOKENIZER))


def _texts(text: Path) -> Iterator[str]:
    for document in read_documents([text]):
        yield document.text
