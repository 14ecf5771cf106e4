"""Grouped-query attention over a slice of the heads, and the cache that generation appends to.

Shapes: B batch, S new positions, P all positions so far, D hidden, H query heads, K key-value
heads, E head size. A rank holds some key-value heads and the query heads that use them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe.config.model import ModelConfig
from moe.config.role import ModelPart
from moe.config.share import Share
from moe.config.tuning import lora_of
from moe.nn.attend import attend, attend_documents
from moe.nn.documents import Documents
from moe.nn.exchange import Exchange
from moe.nn.factors import Factors
from moe.nn.later import Later
from moe.nn.linear import Linear, linear
from moe.nn.rotary import Rotation, rotate


class LayerCache:
    """Keys and values of one sequence in one layer; the buffers double when they are full.

    ``routed`` [B, N] are the weights of merged experts after the prompt (``moe.nn.segments``).
    """

    def __init__(self) -> None:
        self.length = 0
        self.routed: Tensor | None = None
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def append(self, keys_BKSE: Tensor, values_BKSE: Tensor) -> tuple[Tensor, Tensor]:
        """Add new positions; return views of all keys and values so far, [B, K, P, E]."""
        end = self.length + keys_BKSE.shape[2]
        self._keys = _grown(self._keys, keys_BKSE, self.length, end)
        self._values = _grown(self._values, values_BKSE, self.length, end)
        self._keys[:, :, self.length : end] = keys_BKSE
        self._values[:, :, self.length : end] = values_BKSE
        self.length = end
        return self._keys[:, :, :end], self._values[:, :, :end]


class QueryKeyNorm(nn.Module):
    """RMS norm of queries or keys before they are rotated, over each head or over all of them.

    Every rank of a gang holds the norm weights of one head but sees only its own heads, so the
    gradients are summed over the gang. A mean over all heads is taken over the heads of all ranks.
    """

    def __init__(self, config: ModelConfig, held: int, total: int, exchange: Exchange) -> None:
        super().__init__()
        self.each_head = config.query_key_norm == "head"
        self.eps = config.norm_eps
        self.total = total
        self.exchange = exchange
        self.weight = nn.Parameter(torch.ones(config.head_size if self.each_head else held))

    def forward(self, x_BSHE: Tensor) -> Tensor:
        """Normalise heads [B, S, H, E]."""
        if self.each_head:
            (weight,) = self.exchange.enter(self.weight)
            return F.rms_norm(x_BSHE.to(weight.dtype), weight.shape, weight, self.eps).to(
                x_BSHE.dtype
            )
        squares_BS11 = x_BSHE.float().square().sum(dim=(-2, -1), keepdim=True)
        (squares_BS11,) = self.exchange.enter(self.exchange.leave(squares_BS11))
        normed_BSHE = x_BSHE.float() * torch.rsqrt(squares_BS11 / self.total + self.eps)
        weight_HE = self.weight.view(x_BSHE.shape[-2:])
        return (weight_HE * normed_BSHE).to(x_BSHE.dtype)


class Attention(nn.Module):
    """Causal attention; the output is summed over the gang."""

    def __init__(self, config: ModelConfig, share: Share, exchange: Exchange) -> None:
        super().__init__()
        self.head_size = config.head_size
        self.window = config.sliding_window
        self.exchange = exchange
        keys = (share.kv_heads[1] - share.kv_heads[0]) * config.head_size
        queries = keys * config.heads_per_kv
        bias, hidden = config.attention_bias, config.hidden_size

        def made(part: ModelPart, inputs: int, outputs: int, bias: bool, cut: int = 0) -> Linear:
            lora = lora_of(config.tuning, part)
            factors = None if lora is None else Factors(inputs, outputs, lora, exchange, cut)
            return Linear(inputs, outputs, bias, factors)

        self.q_proj = made("query", hidden, queries, bias)
        self.k_proj = made("key", hidden, keys, bias)
        self.v_proj = made("value", hidden, keys, bias)
        self.o_proj = made("output", queries, hidden, config.output_bias, cut=1)
        self.q_norm: nn.Module = nn.Identity()
        self.k_norm: nn.Module = nn.Identity()
        if config.query_key_norm is not None:
            size = config.head_size
            self.q_norm = QueryKeyNorm(config, queries, config.heads * size, exchange)
            self.k_norm = QueryKeyNorm(config, keys, config.kv_heads * size, exchange)

    def forward(
        self,
        x_BSD: Tensor,
        rotary: Rotation,
        cache: LayerCache | None = None,
        later: Later | None = None,
        documents: Documents | None = None,
    ) -> Tensor:
        """Return [B, S, D]; with a cache, positions before x are read from it.

        With ``documents``, none sees another, and there is no cache.
        """
        (x_BSD,) = self.exchange.enter(x_BSD)
        q_BHSE = rotate(self.q_norm(self._heads(self.q_proj(x_BSD, later))).transpose(1, 2), rotary)
        k_BKPE = rotate(self.k_norm(self._heads(self.k_proj(x_BSD, later))).transpose(1, 2), rotary)
        v_BKPE = self._heads(self.v_proj(x_BSD, later)).transpose(1, 2)
        if cache is not None:
            k_BKPE, v_BKPE = cache.append(k_BKPE, v_BKPE)
        if documents is None:
            mixed_BHSE = attend(q_BHSE, k_BKPE, v_BKPE, self.window)
        else:
            mixed_BHSE = attend_documents(q_BHSE, k_BKPE, v_BKPE, self.window, documents)
        flat = mixed_BHSE.transpose(1, 2).flatten(2)
        return row_parallel(self.o_proj, flat, self.exchange, later)

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], -1, self.head_size)


def row_parallel(
    layer: Linear, x: Tensor, exchange: Exchange, later: Later | None = None
) -> Tensor:
    """Apply a layer whose input columns are split over the gang; its bias is added once."""
    y = linear(x, layer.matrix, later=later)
    y = exchange.leave(y if layer.adapter is None else y + layer.adapter(x))
    return y if layer.bias is None else y + layer.bias


def _grown(buffer: Tensor | None, new: Tensor, used: int, needed: int) -> Tensor:
    if buffer is not None and needed <= buffer.shape[2]:
        return buffer
    capacity = max(needed, 2 * used, 64)
    grown = new.new_empty(*new.shape[:2], capacity, new.shape[3])
    if buffer is not None:
        grown[:, :, :used] = buffer[:, :, :used]
    return grown
