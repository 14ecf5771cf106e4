"""The memory of keys and values of one share; its size is given and never grows.

Where experts are merged, it also keeps the logits of their gates, in float32 (``pieces``).

Shapes: T rows, C places, K key-value heads, E head size, N experts.
"""

import torch
from torch import Tensor

from moe.config.merging import gate_bytes, keeps_gates
from moe.config.model import ModelConfig
from moe.config.share import Share
from moe.nn.inference.rows import BLOCK


def place_bytes(config: ModelConfig, share: Share, dtype: torch.dtype) -> int:
    """Return the bytes of the keys and values of one position on a share, and of its gates where
    experts are merged.
    """
    heads, layers = share.kv_heads[1] - share.kv_heads[0], len(tuple(share.layer_numbers))
    values = 2 * layers * heads * config.head_size * dtype.itemsize
    return values + gate_bytes(config, share.layer_numbers)


class Store:
    """Keys and values of every layer of a share at ``blocks`` times ``BLOCK`` places."""

    def __init__(
        self,
        config: ModelConfig,
        share: Share,
        blocks: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.blocks = blocks
        self.dtype = dtype
        heads = share.kv_heads[1] - share.kv_heads[0]
        size = (2, blocks * BLOCK, heads, config.head_size)
        self._layers = {
            layer: torch.zeros(size, dtype=dtype, device=device) for layer in share.layer_numbers
        }
        self._gates = {
            layer: torch.zeros(blocks * BLOCK, config.experts, device=device)
            for layer in share.layer_numbers
            if keeps_gates(config, layer)
        }

    @property
    def bytes(self) -> int:
        """Bytes of memory."""
        kept = (*self._layers.values(), *self._gates.values())
        return sum(each.numel() * each.element_size() for each in kept)

    def layer(self, number: int) -> "LayerStore":
        """Return the part of one layer."""
        return LayerStore(self._layers[number], self._gates.get(number))


class LayerStore:
    """Keys and values of one layer, both [C, K, E]; its gates [C, N] where experts are merged."""

    def __init__(self, both: Tensor, gates: Tensor | None = None) -> None:
        self.keys, self.values = both.unbind(0)
        self.gates = gates

    def write(self, places_T: Tensor, keys_TKE: Tensor, values_TKE: Tensor) -> None:
        """Put the keys and values of new rows at their places."""
        self.keys.index_copy_(0, places_T, keys_TKE.to(self.keys.dtype))
        self.values.index_copy_(0, places_T, values_TKE.to(self.values.dtype))

    def run(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return views of keys and values at places that follow each other, [P, K, E]."""
        return self.keys[start:stop], self.values[start:stop]

    def at(self, places_P: Tensor) -> tuple[Tensor, Tensor]:
        """Return copies of keys and values at some places, [P, K, E]."""
        return self.keys.index_select(0, places_P), self.values.index_select(0, places_P)
