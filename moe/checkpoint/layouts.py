"""Where the files of a directory hold each tensor of a model, in every form that raymoe reads.

raymoe writes one form per family (``moe.checkpoint.names``). transformers also writes other forms
of the same model, and reads all of them:

- *fused*: the experts of a layer in two tensors, ``experts.gate_up_proj`` [N, 2F, D], in whose rows
  the gate comes before the up projection, and ``experts.down_proj`` [N, D, F];
- *bare*: a model saved without its head, whose names lack the first ``model.``;
- a tied embedding under the name of the head.

N is experts, F their width, D hidden.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

from moe.checkpoint.boxes import Box
from moe.checkpoint.names import disk_name, fused_name
from moe.config.model import ModelConfig
from moe.config.tensors import EMBEDDING, HEAD, TensorSlice, tensors

FUSED_FAMILIES = frozenset({"mixtral", "olmoe", "qwen2_moe", "qwen3_moe"})
"""Families whose experts transformers holds in fused tensors."""

_FIRST = "model."


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in the files, and the box of it that is one of our tensors; None: the full tensor.

    A box may have one dimension more than our tensor: the first dimension, which counts experts.
    """

    name: str
    shape: tuple[int, ...]
    box: Box | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """The form of one directory."""

    family: str
    experts: int
    fused: bool = False
    bare: bool = False
    under_head: bool = False

    def stored(self, tensor: TensorSlice) -> Stored:
        """Return where a tensor, or a span of it, is stored."""
        found = self._whole(tensor)
        if self.under_head and found.name == EMBEDDING:
            found = replace(found, name=HEAD)
        if self.bare:
            found = replace(found, name=found.name.removeprefix(_FIRST))
        if tensor.dim is None:
            return found
        outer = 0 if found.box is None else len(found.box) - len(tensor.shape)
        box = list(found.box or ((0, size) for size in found.shape))
        begin = box[outer + tensor.dim][0]
        box[outer + tensor.dim] = begin + tensor.start, begin + tensor.stop
        return replace(found, box=tuple(box))

    def _whole(self, tensor: TensorSlice) -> Stored:
        name, expert = fused_name(tensor.role), tensor.role.expert
        if not self.fused or name is None or expert is None:
            return Stored(self._name(tensor.name), tensor.shape)
        rows, columns = tensor.shape
        one = expert, expert + 1
        if tensor.role.part == "down":
            box = (one, (0, rows), (0, columns))
            return Stored(name, (self.experts, rows, columns), box)
        box = (one, (0, rows) if tensor.role.part == "gate" else (rows, 2 * rows), (0, columns))
        return Stored(name, (self.experts, 2 * rows, columns), box)

    def _name(self, name: str) -> str:
        """Return the name of a tensor; fused tensors have equal names in all families."""
        return disk_name("qwen2_moe" if self.fused else self.family, name)


def layout_of(config: ModelConfig, names: Collection[str]) -> Layout:
    """Return the form of a directory whose files hold tensors of these names."""
    bare = EMBEDDING not in names and EMBEDDING.removeprefix(_FIRST) in names
    embedding = EMBEDDING.removeprefix(_FIRST) if bare else EMBEDDING
    return Layout(
        config.family,
        config.experts,
        fused=config.family in FUSED_FAMILIES and _holds_fused(config, names),
        bare=bare,
        under_head=config.tie_embeddings and embedding not in names and HEAD in names,
    )


def _holds_fused(config: ModelConfig, names: Collection[str]) -> bool:
    fused = (name for tensor in tensors(config) if (name := fused_name(tensor.role)) is not None)
    return any(name in names or name.removeprefix(_FIRST) in names for name in fused)
