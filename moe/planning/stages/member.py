"""The cost of one member of a gang: seconds of its slice of each layer, and its bytes.

Sums over layers are kept as running totals, because a search asks for very many spans of layers.
``moe.planning.counts.memory`` has the same bytes for a rank of a finished plan, from the tensor
table.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from math import ceil
from typing import TypeVar

from moe.config.model import ModelConfig
from moe.config.share import Share
from moe.planning.counts.activations import block_activations
from moe.planning.counts.copies import all_copies
from moe.planning.counts.fixed import fixed_bytes, host_bytes
from moe.planning.counts.memory import (
    Position,
    buffer_bytes,
    cache_bytes_per_token,
    head_floats,
    serving_bytes,
    snapshot_bytes,
    state_bytes,
    wasted_bytes,
    working_bytes,
)
from moe.planning.counts.passes import Passes
from moe.planning.counts.work import (
    Parameters,
    embedding_work,
    end_parameters,
    head_work,
    layer_parameters,
    layer_work,
    layers_like,
    optimizer_work,
    part_of,
)
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import Device, Inventory
from moe.planning.devices.links import slowest

Number = TypeVar("Number")
Span = tuple[int, int]
Spans = tuple[Span, ...]
"""Spans of layers of one stage, in the order of the model."""
Seconds = tuple[float, float]
"""Forward and backward."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a gang: its slice of every layer, and its device in each replica."""

    share: Share
    devices: tuple[Device, ...]


class MemberCosts:
    """Costs of any span of layers on one member, under one workload."""

    def __init__(
        self, config: ModelConfig, inventory: Inventory, workload: Workload, member: Member
    ) -> None:
        self.config, self.workload, self.share = config, workload, member.share
        devices = member.devices
        self.replicas = len(devices)
        self.limit = min(device.memory_bytes for device in devices)
        self._host_limit = min((each.host_bytes for each in devices if each.host_bytes), default=0)
        unlike = {device.traits: device for device in devices}.values()
        self._paces = [inventory.pace(device, workload.numerics.sixteen_bit) for device in unlike]
        pairs = {(one.link_key, two.link_key): (one, two) for one, two in pairwise(devices)}
        links = [inventory.link(one, two) for one, two in pairs.values()]
        self._link = slowest(links) if links else None
        each = self._of_layers(lambda layer: layer_parameters(config, self.share, layer))
        self._parameters = tuple(accumulate(each, Parameters.plus, initial=Parameters(0, 0)))
        floats = self._of_layers(
            lambda layer: block_activations(config, self.share, layer, workload)
        )
        self._floats = tuple(accumulate(floats, initial=0.0))
        self._working: dict[tuple[bool, bool], int] = {}
        self._fixed: dict[tuple[int, int], int] = {}
        self._alone = fixed_bytes(config, self.share, 0, workload, self.replicas)
        self._end_parameters: dict[tuple[bool, bool], Parameters] = {}

    def block(self, layer: int) -> Seconds:
        """Return the seconds of one block of a micro-batch."""
        work = layer_work(self.config, self.share, layer, self.workload)
        return self._seconds(part_of(self.config, layer), work)

    def ends(self, position: Position) -> Seconds:
        """Return the seconds of embedding and head if a stage has them."""
        forward = backward = 0.0
        embedding, head = position.ends
        if embedding:
            work = embedding_work(self.config, self.share, self.workload)
            forward, backward = self._seconds("embedding", work)
        if head:
            more = self._seconds("head", head_work(self.config, self.share, self.workload))
            forward, backward = forward + more[0], backward + more[1]
        return forward, backward

    def parameters(self, spans: Spans, position: Position) -> Parameters:
        """Return the number of parameters of spans of layers, with embedding and head if they have
        them.
        """
        if position.ends not in self._end_parameters:
            ends = end_parameters(self.config, self.share, *position.ends)
            self._end_parameters[position.ends] = ends
        found = self._end_parameters[position.ends]
        for start, stop in spans:
            found = found.plus(self._parameters[stop].less(self._parameters[start]))
        return found

    def reduce_seconds(self, parameters: Parameters) -> float:
        """Return the seconds to sum the gradients over the replicas, and to give the weights back,
        once per step.
        """
        if self._link is None:
            return 0.0
        size = self.workload.exchanged * parameters.changing.total
        return self._link.all_reduce_seconds(size, self.replicas)

    def update_seconds(self, parameters: Parameters) -> float:
        """Return the seconds of the optimiser, once per step; ZeRO divides its work over the
        replicas.
        """
        if not self.workload.training:
            return 0.0
        trained = parameters.changing.total
        own = trained / self.replicas if self.workload.zero else trained
        work = optimizer_work(own, self.workload.numerics)
        return max(pace.once("optimizer", work) for pace in self._paces)

    def fullness(self, spans: Spans, position: Position, recompute: Collection[int]) -> float:
        """Return the fraction of its memory that spans of layers take, as ``rank_bytes`` counts.

        Of a GPU, or of its part of the host's memory, if more of that is taken and it is known.
        """
        own = self.bytes(spans, position, recompute) / self.limit
        if not self._host_limit:
            return own
        host = host_bytes(self.parameters(spans, position), self.workload, self.replicas)
        return max(own, host / self._host_limit)

    def tokens(self, layers: Span, position: Position) -> int:
        """Return how many tokens' keys and values fit beside weights and one pass of prompts."""
        share = replace(self.share, layers=layers)
        each = cache_bytes_per_token(self.config, share, self.workload)
        rest = self.bytes((layers,), position, ()) - each * self.workload.tokens
        return max(0, (self.limit - rest) // each)

    def bytes(self, spans: Spans, position: Position, recompute: Collection[int]) -> int:
        """Return the bytes that spans of layers take; in serving it is one span."""
        parameters = self.parameters(spans, position)
        states = state_bytes(parameters, self.workload, self.replicas)
        if not self.workload.training:
            return (
                states[0] + self._serving_bytes(spans[0], position) + self._beside_tensors(position)
            )
        again = {layer: self._floats[layer + 1] - self._floats[layer] for layer in recompute}
        kept = [self._kept(span, again) for span in spans]
        numbers = (
            position.most_kept(kept) + max(again.values(), default=0.0)
        ) * self.workload.tokens
        if position.ends[1]:
            numbers += head_floats(self.config, self.share, self.workload)
        activations = ceil(self.workload.numerics.activation * numbers)
        beside = self._beside(position, activations)
        beside += snapshot_bytes(parameters, self.workload, self.replicas)
        if not self.workload.gpus:
            beside += all_copies(parameters, self.workload, self.replicas)
            return sum(states) + activations + beside + self._alone
        return sum(states) + activations + beside + self._beside_tensors(position)

    def _beside_tensors(self, position: Position) -> int:
        """Return the bytes beside tensors, which on GPUs depend on the neighbours."""
        arrivals = position.arrivals
        if arrivals not in self._fixed:
            self._fixed[arrivals] = fixed_bytes(
                self.config, self.share, sum(arrivals), self.workload, self.replicas
            )
        return self._fixed[arrivals]

    def _kept(self, span: Span, again: Mapping[int, float]) -> float:
        """Return the numbers that a span keeps per token; recomputed layers keep their input."""
        start, stop = span
        own = [floats for layer, floats in again.items() if start <= layer < stop]
        kept = self._floats[stop] - self._floats[start] - sum(own)
        return kept + self.workload.numerics.stretch * self.config.hidden_size * len(own)

    def _beside(self, position: Position, activations: int) -> int:
        """Return the bytes of temporary and received tensors."""
        if position.ends not in self._working:
            self._working[position.ends] = working_bytes(
                self.config, self.share, position, self.workload
            )
        buffers = buffer_bytes(self.config, position, self.workload)
        return self._working[position.ends] + wasted_bytes(activations) + buffers

    def _serving_bytes(self, layers: Span, position: Position) -> int:
        """Return the bytes of a pass and of the key-value cache."""
        start, stop = layers
        widest = max(after - before for before, after in pairwise(self._floats[start : stop + 1]))
        share = replace(self.share, layers=layers, head=position.ends[1])
        return serving_bytes(self.config, share, self.workload, widest)

    def _seconds(self, part: str, work: Passes) -> Seconds:
        both = [pace.seconds(part, work, self.workload.tokens) for pace in self._paces]
        return max(each[0] for each in both), max(each[1] for each in both)

    def _of_layers(self, count: Callable[[int], Number]) -> list[Number]:
        """Return a count of each layer; of layers that are alike it is made once."""
        found: dict[int, Number] = {}
        values = []
        for like in layers_like(self.config, self.share):
            if like not in found:
                found[like] = count(like)
            values.append(found[like])
        return values
