"""Puts similar documents next to each other, so that a training row is of one subject.

Experts that are merged for whole segments specialise only if segments of a row are alike (Lory,
arXiv 2405.03133, section 3.2). There documents are embedded by another model; here by the model
itself: the mean of its last hidden states over the first tokens of a document, of length one. A
chain begins at any document and goes on to the most similar one that is not in it yet, by the
cosine.

A chain of n documents compares n^2 / 2 pairs, so documents are chained in windows of ``WINDOW``, in
the order in which they come; the order follows from the text, the model and the numbers above. On
another processor the last digits of an embedding may decide otherwise.

Shapes: N documents, B of them at a time, S tokens, D hidden.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from moe.checkpoint.reader import Checkpoint
from moe.errors import DataError
from moe.nn.build import build
from moe.nn.decoder import Decoder, Pass
from pipelines.corpus.manifest import Chained
from pipelines.corpus.units import Tokens

WINDOW = 8192
"""Documents that are chained together."""

LEADING_TOKENS = 256
"""Tokens of a document that its embedding reads."""

_BATCH = 16

HOW = Chained("mean of the last hidden states", LEADING_TOKENS, WINDOW)
"""What the manifest says of it."""

Vectors = npt.NDArray[np.float32]
Report = Callable[[str], None]


class Embedder:
    """Embeds documents by a model; CheckpointError if the directory has no weights."""

    def __init__(self, model: Path) -> None:
        checkpoint = Checkpoint.open(model)
        self._decoder: Decoder = build(checkpoint.config, checkpoint.read).eval()
        self._words = checkpoint.config.vocab_size

    @torch.inference_mode()
    def vectors(self, documents: Sequence[Tokens]) -> Vectors:
        """Return an embedding of length one of each document, [N, D]."""
        found = [
            self._batch(documents[at : at + _BATCH]) for at in range(0, len(documents), _BATCH)
        ]
        return np.concatenate(found)

    def _batch(self, documents: Sequence[Tokens]) -> Vectors:
        texts = [np.asarray(each[:LEADING_TOKENS]) for each in documents]
        longest = max(map(len, texts))
        tokens_BS = np.zeros((len(texts), longest), dtype=np.int64)
        valid_BS = np.zeros((len(texts), longest), dtype=bool)
        for row, text in enumerate(texts):
            tokens_BS[row, : len(text)], valid_BS[row, : len(text)] = text, True
        if tokens_BS.max() >= self._words:
            raise DataError(
                f"the text has token {tokens_BS.max()}, the model has embeddings for 0 to "
                f"{self._words - 1}; similar documents are found by the model itself, so take the "
                "tokenizer that it was trained with"
            )
        valid = torch.from_numpy(valid_BS)
        how = Pass(valid=valid, measured=False, logits=False)
        hidden_BSD = self._decoder(torch.from_numpy(tokens_BS), how).values
        sums_BD = hidden_BSD.float().masked_fill(~valid[..., None], 0.0).sum(dim=1)
        return torch.nn.functional.normalize(sums_BD, dim=1).numpy()


def chained(documents: Sequence[Tokens], embedder: Embedder, report: Report) -> Iterator[int]:
    """Yield the numbers of the documents, similar ones after each other within each window."""
    for start in range(0, len(documents), WINDOW):
        window = documents[start : start + WINDOW]
        yield from (start + number for number in chain(embedder.vectors(window)))
        report(f"{start + len(window):,} of {len(documents):,} documents put beside similar ones")


def chain(vectors_ND: Vectors) -> Iterable[int]:
    """Return the numbers of rows from the first on, each followed by the most similar that is left;
    of equally similar ones the first.
    """
    left = np.arange(len(vectors_ND))
    rest, found = vectors_ND, [0]
    while len(left) > 1:
        last = found[-1]
        stays = left != last
        left, rest = left[stays], rest[stays]
        found.append(int(left[np.argmax(rest @ vectors_ND[last])]))
    return found if len(vectors_ND) else []
