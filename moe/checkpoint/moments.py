"""The moments of a training checkpoint, read under any plan from pieces written under any plan."""

from collections.abc import Sequence

import torch
from torch import Tensor

from moe.checkpoint.boxes import overlap
from moe.checkpoint.manifest import Manifest, load_manifest
from moe.checkpoint.names import disk_name
from moe.checkpoint.overlaps import boxes_of, copy_common, placed
from moe.checkpoint.records import Piece, by_moment, check_cover
from moe.checkpoint.shard_files import NAMED
from moe.checkpoint.shards import Shards
from moe.config.families import read_config
from moe.config.json_file import read_json
from moe.config.ranges import TensorRange, whole_range
from moe.config.tensors import TensorSlice
from moe.errors import CheckpointError
from moe.storage import Location


class Moments:
    """Reads any part of any moment, or a range of it; opens only the overlapping pieces."""

    def __init__(self, family: str, pieces: Sequence[Piece], shards: Shards) -> None:
        self._family = family
        self._pieces = by_moment(pieces)
        self._shards = shards
        self._covered: set[tuple[str, str]] = set()

    @classmethod
    def open(cls, directory: Location, manifest: Manifest | None = None) -> "Moments":
        """Open the moments of a checkpoint; reads its manifest unless the caller gives it."""
        manifest = manifest or load_manifest(directory)
        config = read_config(read_json(directory / "config.json"))
        files = {piece.key: directory / piece.file for piece in manifest.pieces}
        hashes = {piece.key: piece.sha256 for piece in manifest.pieces}
        return cls(config.family, manifest.pieces, Shards(files, hashes))

    def has(self, part: TensorSlice, moment: str) -> bool:
        """Return whether any of a moment of a tensor was saved."""
        return (disk_name(self._family, part.name), moment) in self._pieces

    def read(self, part: TensorSlice, moment: str) -> Tensor:
        """Return a moment of a part of a tensor, in the shape of the part."""
        return self.read_range(whole_range(part), moment).view(part.held_shape)

    def read_range(self, wanted: TensorRange, moment: str) -> Tensor:
        """Return one moment of a range of a tensor, one-dimensional."""
        part, start, stop = wanted.part, wanted.start, wanted.stop
        if not 0 <= start <= stop <= part.elements:
            raise CheckpointError(
                f"asked for elements {start} to {stop} of {part.name}, of which "
                f"{part.elements} are held"
            )
        pieces = self._of(part, moment)
        dtypes = sorted({piece.dtype for piece in pieces})
        if len(dtypes) > 1 or dtypes[0] not in NAMED:
            raise CheckpointError(
                f"{pieces[0].name}.{moment} was saved as {', '.join(dtypes)}; one of "
                f"{', '.join(NAMED)} is read"
            )
        out = torch.empty(wanted.elements, dtype=NAMED[dtypes[0]])
        targets = boxes_of(wanted)
        for piece in pieces:
            offset = (piece.dim, piece.first)
            sources = list(placed(piece.part_shape, offset, piece.start, piece.stop))
            if any(overlap(one, box) for one, _ in targets for box, _ in sources):
                copy_common(self._shards.read(piece.key), sources, out, targets)
        return out

    def _of(self, part: TensorSlice, moment: str) -> Sequence[Piece]:
        """Return the pieces of a tensor; CheckpointError if they do not cover the tensor."""
        key = (disk_name(self._family, part.name), moment)
        pieces = self._pieces.get(key, [])
        if key not in self._covered:
            check_cover(*key, part.shape, pieces)
            self._covered.add(key)
        return pieces
