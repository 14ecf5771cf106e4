"""A rank's share of the model as it answers.

Shapes: T rows, R rows whose logits are wanted, D hidden, V vocabulary.
"""

from collections.abc import Callable, Mapping, Set

import torch
import torch.nn.functional as F
from torch import Tensor

from moe.config.adapters import Group, groups, outputs
from moe.config.answering import WeightKind
from moe.config.merging import check_served
from moe.config.share import Share
from moe.config.tuning import PAIR
from moe.nn.block import Block
from moe.nn.build import ReadTensor
from moe.nn.decoder import Decoder
from moe.nn.factors import Factors
from moe.nn.inference.adapters import Additions
from moe.nn.inference.arrivals import Arrivals, Making, arrivals, empty
from moe.nn.inference.layer import Layer
from moe.nn.inference.operands import check_kind, pack
from moe.nn.inference.rows import Rows
from moe.nn.inference.store import Store
from moe.nn.rotary import rotation

HEAD: Mapping[WeightKind, WeightKind] = {"int8": "fp16"}
"""How the head is kept where it is kept otherwise: 8 bits there cost as much loss as in all layers'
gates and ups together, and it is a small part of the bytes.
"""

ReadFactors = Callable[[Group], tuple[Tensor, Tensor] | None]
"""Returns A [R, K] and B [N, R] of an adapter for the held parts of weights, if it has them."""


class AnsweringShare:
    """The layers of a share, with embedding and head where it has them.

    Its weights are those of ``decoder``: the same memory, or packed. With ``own``, nobody else uses
    the decoder, and it loses the memory of what is packed.
    """

    def __init__(self, decoder: Decoder, kind: WeightKind, own: bool) -> None:
        self._decoder = decoder
        self.kind = kind
        self._device = next(decoder.parameters()).device
        check_kind(kind, self._device)
        check_served(decoder.config)
        self._layers: dict[int, Layer] = {}
        for number, block in decoder.model.layers.items():
            assert isinstance(block, Block)
            self._layers[int(number)] = Layer(block, kind, own)
            if own and kind != "fp32":
                empty(block)
        head = HEAD.get(kind, kind)
        self._head = pack(head, [decoder.head_weight]) if decoder.share.head else None
        self._adapters: set[int] = set()
        self._stand()
        if own and kind != "fp32" and decoder.share.head and not decoder.config.tie_embeddings:
            decoder.lm_head.weight.data = decoder.lm_head.weight.data.new_empty(0)

    def _stand(self) -> None:
        """Add what the factors give that a run trains beside the weights; a router has its own."""
        modules = dict(self._decoder.named_modules())
        for group in groups(self._decoder.config, self._decoder.share):
            for number, member in enumerate(group):
                owner = member.name.removesuffix(".weight")
                if member.role.expert is not None and member.role.part == "gate":
                    owner = owner.rpartition(".")[0]
                factors = modules.get(f"{owner}.{PAIR}")
                if isinstance(factors, Factors) and member.role.part != "router":
                    self._additions(group).stand(factors, outputs(group[:number]))

    @property
    def bytes(self) -> int:
        """Bytes of memory that all weights take: packed ones, and parameters that are left."""
        packed = [each for layer in self._layers.values() for each in layer.operands]
        packed += [] if self._head is None else [self._head]
        left = sum(each.numel() * each.element_size() for each in self._decoder.parameters())
        return left + sum(each.bytes for each in packed)

    @property
    def adapters(self) -> Set[int]:
        """Numbers of the adapters that are here."""
        return self._adapters

    def adopt(self, adapter: int, read: ReadFactors) -> None:
        """Take up an adapter; batches may be under way that do not use it."""
        for group in groups(self._decoder.config, self._decoder.share):
            put(self._additions(group), adapter, read(group), self._device)
        self._adapters.add(adapter)

    def drop(self, adapter: int) -> None:
        """Forget an adapter, if it is here."""
        for group in groups(self._decoder.config, self._decoder.share):
            self._additions(group).drop(adapter)
        self._adapters.discard(adapter)

    def take_loads(self) -> Mapping[int, tuple[int, ...]]:
        """Return the rows of each expert by layer since the last time, as far as they are known."""
        held = {number: layer.experts for number, layer in self._layers.items()}
        return {number: each.take_load() for number, each in held.items() if each is not None}

    def arrivals(
        self, share: Share, read: ReadTensor, adapters: Mapping[int, ReadFactors]
    ) -> Arrivals:
        """Make the experts that another share has beside those of this one, with what adapters add
        to them; batches may be under way.
        """
        decoder = self._decoder
        dtype = torch.bfloat16 if decoder.narrow else torch.float32
        how = Making(decoder.config, dtype, self._device, self.kind)
        found = arrivals(how, decoder.share, share, read)
        for group in groups(decoder.config, share):
            role = group[0].role
            coming = found.of(role)
            if coming is not None:
                for number, factors in adapters.items():
                    additions = coming.packed.additions(role.part)
                    put(additions, number, factors(group), self._device)
        return found

    def place(self, found: Arrivals) -> None:
        """Hold the experts of another share, between two passes."""
        before = self._decoder.share
        for number in before.layer_numbers:
            held = self._layers[number].experts
            if held is None:
                continue
            coming = found.experts.get(number, {})
            leaving = {*before.experts_of(number)} - {*found.share.experts_of(number)}
            held.exchange(leaving, {own: each.packed for own, each in coming.items()})
            modules = {own: each.module for own, each in coming.items()}
            self._decoder.mixture(number).experts.exchange(leaving, modules)
        self._decoder.share = found.share

    def _additions(self, group: Group) -> Additions:
        role = group[0].role
        assert role.layer is not None
        return self._layers[role.layer].additions(role)

    def embed(self, tokens_T: Tensor) -> Tensor:
        """Return the hidden states of tokens, which begin a pass."""
        embedded: Tensor = self._decoder.model.embed_tokens(tokens_T)
        return embedded

    def forward(self, x_TD: Tensor, rows: Rows, store: Store, span: tuple[int, int]) -> Tensor:
        """Apply a span of layers to hidden states."""
        turn = rotation(self._decoder.config, rows.positions)
        half = turn.cos.shape[1] // 2
        turn_T1E = torch.complex(turn.cos[:, :half], turn.sin[:, :half])[:, None]
        for number in range(*span):
            x_TD = self._layers[number].forward(x_TD, turn_T1E, rows, store.layer(number))
        return x_TD

    def logits(self, x_RD: Tensor) -> Tensor:
        """Return the logits of some rows over the whole vocabulary, in float32."""
        assert self._head is not None
        normed_RD = self._decoder.model.norm.forward(x_RD)
        held = self._head.product(self._head.prepared(normed_RD)).float()
        rows = self._decoder.rows
        if rows is None:
            return held
        return rows.exchange.leave(F.pad(held, (rows.start, rows.total - rows.stop)))


def put(
    additions: Additions, adapter: int, found: tuple[Tensor, Tensor] | None, device: torch.device
) -> None:
    """Keep what an adapter adds to a group, if it does."""
    if found is not None:
        down_RK, up_NR = found
        additions.put(adapter, down_RK.to(device), up_NR.to(device))
