"""One expansion: how every tensor of the larger model is made from one of the model before."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from moe.checkpoint.reader import Checkpoint
from moe.config.role import Role
from moe.config.tensors import TensorSlice, tensors
from moe.surgery.calibration import random_calibration
from moe.surgery.growing.apart import directions
from moe.surgery.growing.gradient import squared_gradients
from moe.surgery.growing.options import Growth
from moe.surgery.growing.parents import Parents, parents_alike, parents_by
from moe.surgery.growing.parts import part_of
from moe.surgery.growing.rows import router_rows
from moe.surgery.look.routed import routed
from moe.surgery.output import Values
from moe.surgery.part import Part
from moe.surgery.seeds import generator
from moe.surgery.text import Text, Texts

_BY_EXPERT = frozenset({"router", "balance_bias"})
"""Parts with one row for each expert."""


@dataclass(frozen=True)
class Expansion:
    """``parents`` of the experts of each layer with experts; ``apart``, the vectors that the copies
    of each layer add to their router rows, if they do.
    """

    grown: Growth
    parents: Mapping[int, Parents]
    apart: Mapping[int, Tensor]

    def parent_of(self, child: TensorSlice) -> TensorSlice:
        """Return the tensor of the model before from which a tensor is made."""
        role = child.role
        if role.expert is not None:
            assert role.layer is not None
            role = replace(role, expert=self.parents[role.layer][role.expert])
        return self._before[role]

    def values(self, child: TensorSlice, parent: Tensor) -> Values:
        """Return the values of a tensor of the larger model, from its whole parent."""
        role = child.role
        if role.part in _BY_EXPERT:
            return Values([self._rows(child, parent).to(parent.dtype)])
        part = self._part(child)
        seed = generator(self.grown.options.seed, child.name)
        return Values(part.blocks(role, parent, seed), part.copies(role))

    def _rows(self, child: TensorSlice, parent: Tensor) -> Tensor:
        layer = child.role.layer
        assert layer is not None
        if child.role.part == "balance_bias":
            return parent[list(self.parents[layer])] * self.grown.bias_factor
        apart = self.apart.get(layer)
        return router_rows(parent, self.parents[layer], self.grown, child.name, apart)

    def _part(self, child: TensorSlice) -> Part:
        role = child.role
        if role.expert is None or role.layer is None:
            return Part()
        return part_of(self.parent_of(child), role, self.parents[role.layer], self.grown)

    @cached_property
    def _before(self) -> dict[Role, TensorSlice]:
        return {tensor.role: tensor for tensor in tensors(self.grown.before)}


def expansion(source: Checkpoint, grown: Growth, texts: Texts | None) -> Expansion:
    """Decide what is copied; calibration tokens are computed only if the options need them."""
    options, layers = grown.options, grown.before.moe_layers
    text = _random_text(grown) if texts is None else texts.calibration
    if options.apart:
        assert grown.copies is not None
        found = routed(source, text.tokens)
        apart = {each.layer: directions(each, grown.copies, options.seed) for each in found}
    else:
        apart = {}
    if options.by == "alike":
        parents = dict.fromkeys(layers, parents_alike(grown))
    else:
        merits = _merits(source, grown, text)
        parents = {layer: parents_by(grown, merits[layer]) for layer in layers}
    return Expansion(grown, parents, apart)


def _merits(source: Checkpoint, grown: Growth, text: Text) -> dict[int, list[float]]:
    """Return the load or the squared gradient of the experts of each layer."""
    if grown.options.by == "load":
        return {found.layer: found.shares for found in routed(source, text.tokens)}
    return squared_gradients(source, text.tokens, text.labels)


def _random_text(grown: Growth) -> Text:
    """Return random tokens, each with the next one as its label."""
    drawn = random_calibration(grown.before, grown.options.seed)
    return Text(drawn.source, drawn.tokens, drawn.tokens.roll(-1, dims=1))
