"""One layer of a pass.

Shapes: T rows, D hidden, H query heads, K key-value heads, E head size.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from moe.config.answering import WeightKind
from moe.config.role import ModelPart, Role
from moe.nn.attention import Attention, QueryKeyNorm
from moe.nn.block import Block, MixtureOfExperts
from moe.nn.exchange import Exchange
from moe.nn.feed_forward import DenseFeedForward
from moe.nn.inference.adapters import Additions
from moe.nn.inference.attention import attend_rows
from moe.nn.inference.experts import Biases, HeldExperts, SwiGlu
from moe.nn.inference.merged import MergedRows
from moe.nn.inference.operands import Operand, Prepared, move_together, pack
from moe.nn.inference.rows import Rows
from moe.nn.inference.store import LayerStore
from moe.nn.merged_mixture import MergedMixture
from moe.nn.norm import Norm


class Layer:
    """Attention and feed-forward or experts, each after a norm and added to the residual stream."""

    def __init__(self, block: Block, kind: WeightKind, own: bool) -> None:
        self._before = block.input_layernorm
        self._attention = _Attention(block.self_attn, kind, own)
        self._between = block.post_attention_layernorm
        self._rest: _Mixture | MergedRows | _Dense
        if isinstance(block.mlp, MixtureOfExperts):
            self._rest = _Mixture(block.mlp, kind, own)
        elif isinstance(block.mlp, MergedMixture):
            self._rest = MergedRows(block.mlp, kind)
        else:
            assert isinstance(block.mlp, DenseFeedForward)
            self._rest = _Dense(block.mlp, kind, own)

    def forward(self, x_TD: Tensor, turn_T1E: Tensor, rows: Rows, store: LayerStore) -> Tensor:
        """Apply the layer to hidden states."""
        x_TD = x_TD + self._attention.forward(_normed(self._before, x_TD), turn_T1E, rows, store)
        normed_TD = _normed(self._between, x_TD)
        if isinstance(self._rest, MergedRows):
            return x_TD + self._rest.forward(normed_TD, rows, store)
        return x_TD + self._rest.forward(normed_TD, rows)

    @property
    def operands(self) -> list[Operand]:
        """All packed weights."""
        return [*self._attention.operands, *self._rest.operands]

    @property
    def experts(self) -> HeldExperts | None:
        """The experts of the layer, where it has any."""
        return self._rest.held if isinstance(self._rest, _Mixture) else None

    def additions(self, role: Role) -> Additions:
        """Return what adapters add to the product of the group that begins with a weight."""
        attention = self._attention.added.get(role.part)
        if attention is not None:
            return attention
        assert not isinstance(self._rest, MergedRows)  # ``groups`` has none of its weights
        return self._rest.additions(role)


class _Attention:
    def __init__(self, layer: Attention, kind: WeightKind, own: bool) -> None:
        parts = (layer.q_proj, layer.k_proj, layer.v_proj)
        if own:
            move_together([each.weight for each in parts])
        self._qkv = pack(kind, [each.weight for each in parts])
        self._qkv_biases = Biases.of(parts, own)
        self._out = pack(kind, [layer.o_proj.weight])
        self._out_bias = layer.o_proj.bias
        self._queries, self._keys = layer.q_proj.out_features, layer.k_proj.out_features
        self._head_size, self._window = layer.head_size, layer.window
        self._exchange: Exchange = layer.exchange
        self._norms = layer.q_norm, layer.k_norm
        self._to_qkv, self._to_out = Additions(kind), Additions(kind)
        self.added: Mapping[ModelPart, Additions] = {"query": self._to_qkv, "output": self._to_out}

    @property
    def operands(self) -> list[Operand]:
        return [self._qkv, self._out]

    def forward(self, x_TD: Tensor, turn_T1E: Tensor, rows: Rows, store: LayerStore) -> Tensor:
        entering = self._qkv.prepared(x_TD)
        qkv = self._to_qkv.to(self._qkv.product(entering), entering, rows.spans)
        if self._qkv_biases is not None:
            qkv = self._qkv_biases.added(qkv)
        heads = qkv.view(len(qkv), -1, self._head_size)
        queries = self._queries // self._head_size
        keys = queries + self._keys // self._head_size
        turned = self._turned(heads[:, :queries], heads[:, queries:keys], turn_T1E)
        store.write(rows.places, turned[:, queries:], heads[:, keys:])
        mixed_THE = attend_rows(turned[:, :queries], rows, store, self._window)
        leaving = self._out.prepared(mixed_THE.flatten(1))
        y_TD = self._to_out.to(self._out.product(leaving), leaving, rows.spans)
        y_TD = self._exchange.leave(y_TD)
        return y_TD if self._out_bias is None else y_TD + self._out_bias

    def _turned(self, q_THE: Tensor, k_TKE: Tensor, turn_T1E: Tensor) -> Tensor:
        """Return queries and keys, rotated by their positions, side by side.

        A number of the first half of a head and its partner of the second stand together in the
        result: attention multiplies queries and keys, so any common order of their numbers will do.
        """
        if isinstance(self._norms[0], QueryKeyNorm):
            q_THE, k_TKE = (
                norm(x[None])[0] for norm, x in zip(self._norms, (q_THE, k_TKE), strict=True)
            )
        both = torch.cat((q_THE, k_TKE), dim=1).float()
        first, second = both.chunk(2, dim=-1)
        return torch.view_as_real(torch.complex(first, second) * turn_T1E).flatten(-2)


class _Dense:
    def __init__(self, layer: DenseFeedForward, kind: WeightKind, own: bool) -> None:
        self._inner = SwiGlu.of(layer, kind, own)
        self._out_bias = layer.down_proj.bias
        self._exchange = layer.exchange

    @property
    def operands(self) -> list[Operand]:
        return list(self._inner.operands)

    def additions(self, role: Role) -> Additions:
        return self._inner.additions(role.part)

    def forward(self, x_TD: Tensor, rows: Rows) -> Tensor:
        inner = self._inner
        y_TD = self._exchange.leave(inner.apply(inner.gate_up.prepared(x_TD), rows.spans))
        return y_TD if self._out_bias is None else y_TD + self._out_bias


class _Mixture:
    def __init__(self, layer: MixtureOfExperts, kind: WeightKind, own: bool) -> None:
        self._number = layer.layer
        self._router = layer.router
        self.held = HeldExperts(layer.experts, kind, own, layer.config.experts)
        shared = layer.config.shared_size > 0
        self._shared = SwiGlu.of(layer.shared, kind, own) if shared else None
        self._gate: nn.Linear | None = layer.shared_gate if layer.config.shared_gate else None
        self._to_router, self._to_gate = Additions(kind), Additions(kind)
        self._exchange = layer.exchange

    @property
    def operands(self) -> list[Operand]:
        every = [*self.held] if self._shared is None else [*self.held, self._shared]
        return [each for expert in every for each in expert.operands]

    def additions(self, role: Role) -> Additions:
        if role.expert is not None:
            return self.held.additions(role.expert, role.part)
        if self._shared is not None and role.shared:
            return self._shared.additions(role.part)
        return self._to_router if role.part == "router" else self._to_gate

    def forward(self, x_TD: Tensor, rows: Rows) -> Tensor:
        exact_TD = x_TD.to(torch.promote_types(x_TD.dtype, torch.float32))
        exact, spans = Prepared(exact_TD), rows.spans
        routing = self._router.forward(
            exact_TD, rows.tokens, lambda logits_TN: self._to_router.to(logits_TN, exact, spans)
        )
        if rows.watch is not None:
            rows.watch(self._number, routing)
        y_TD = self.held.mix(x_TD, routing.experts, routing.weights, spans)
        if self._shared is not None:
            shared_TD = self._shared.apply(self._shared.gate_up.prepared(x_TD), spans)
            if self._gate is not None:
                gate_T1 = self._to_gate.to(self._gate(exact_TD), exact, spans)
                shared_TD = gate_T1.sigmoid() * shared_TD
            y_TD = y_TD + shared_TD
        return self._exchange.leave(y_TD)


def _normed(norm: Norm, x_TD: Tensor) -> Tensor:
    """Apply a norm by five operators; torch's own function makes nine for few rows on a CPU."""
    assert norm.eps is not None
    mean_T1 = x_TD.square().mean(dim=1, keepdim=True)
    normed_TD = (x_TD * torch.rsqrt(mean_T1.add_(norm.eps))).mul_(norm.weight)
    return normed_TD if norm.narrow is None else normed_TD.to(norm.narrow)
