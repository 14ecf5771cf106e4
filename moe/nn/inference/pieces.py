"""Which rows of a pass have their experts merged alike, and by the gates of which positions.

A gate's logits are kept of every position, beside its keys and values. The prompt of a sequence is
routed by its segments, and all that comes after it by the whole prompt (``moe.nn.segments``)::

    segments of 4, a prompt of 10 tokens
    positions    0..3     4..7           8, 9           10, 11, ...
    routed by    nothing  gates of 0..3  gates of 4..7  gates of 0..9

So a prompt may be read in any parts, and a sequence that gave up its blocks is computed again as it
was before.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from moe.config.model import ModelConfig
from moe.nn.inference.rows import BLOCK, Rows, Segment


@dataclass(frozen=True, slots=True)
class Piece:
    """The rows ``[start, stop)`` of a pass, routed by the gates at some places; where these are
    None, all experts weigh alike.
    """

    start: int
    stop: int
    places: Tensor | None

    @property
    def count(self) -> int:
        """Number of rows."""
        return self.stop - self.start

    def weights(self, gates_CN: Tensor) -> Tensor:
        """Return the weights of the experts, [N], from the gates that are kept of every place."""
        if self.places is None:
            return gates_CN.new_full(gates_CN.shape[1:], 1.0 / gates_CN.shape[1])
        return gates_CN.index_select(0, self.places).mean(dim=0).softmax(dim=0)


def rows_of(
    config: ModelConfig,
    sequences: Sequence[Segment],
    tokens: Sequence[int],
    device: torch.device | str = "cpu",
) -> Rows:
    """Return the rows of a pass, with their pieces where the model merges its experts."""
    rows = Rows.of(sequences, tokens, device)
    if config.moe is None or config.moe.segment_tokens is None:
        return rows
    return replace(rows, pieces=pieces(sequences, config.moe.segment_tokens, device))


def pieces(
    sequences: Sequence[Segment], length: int, device: torch.device | str = "cpu"
) -> tuple[Piece, ...]:
    """Return the pieces of a pass, in the order of its rows; ``length`` is that of a routing
    segment, in tokens.
    """
    found = []
    for own in sequences:
        for start, stop, routed_by in _routed(own, length):
            at = own.start - own.position
            places = None if routed_by is None else _places(own, *routed_by).to(device)
            found.append(Piece(at + start, at + stop, places))
    return tuple(found)


def _places(own: Segment, start: int, stop: int) -> Tensor:
    """Return the places of the positions ``[start, stop)``, of which there may be thousands."""
    first = start // BLOCK
    blocks = torch.tensor(own.table[first : -(-stop // BLOCK)])
    places = (blocks[:, None] * BLOCK + torch.arange(BLOCK)).flatten()
    return places[start - first * BLOCK : stop - first * BLOCK]


def _routed(own: Segment, length: int) -> Iterator[tuple[int, int, tuple[int, int] | None]]:
    """Yield spans of new positions that are routed alike, with the positions that route them."""
    prompt, start = own.prompt_end, own.position
    while start < min(prompt, own.end):
        begun = start // length * length
        stop = min(begun + length, prompt, own.end)
        yield start, stop, (begun - length, begun) if begun else None
        start = stop
    if start < own.end:
        yield start, own.end, (0, prompt)
