"""The models that the check trains and times, made on the device: nothing is read from a disk."""

from dataclasses import replace

import torch
from torch import Tensor

from actors.step.buckets import buckets_of
from benchmarks.gpu.rows import Setting
from moe.config.model import ModelConfig, MoeConfig
from moe.config.role import NORMS
from moe.config.share import Share, whole
from moe.config.tensors import TensorSlice
from moe.nn.balance import Balance
from moe.nn.build import ReadTensor
from moe.nn.decoder import Decoder
from moe.nn.experts.experts import BankName, Experts
from moe.planning.devices.inventory import CPU
from moe.planning.devices.kinds import kind_of_gpu

OLMOE = ModelConfig(
    family="olmoe",
    vocab_size=50304,
    hidden_size=2048,
    layers=16,
    heads=16,
    kv_heads=16,
    head_size=128,
    ffn_size=1024,
    norm_eps=1e-5,
    rope_theta=1e4,
    max_positions=4096,
    tie_embeddings=False,
    query_key_norm="all",
    moe=MoeConfig(experts=64, top_k=8, expert_size=1024, renormalise=False),
)
"""OLMoE-1B-7B: 6.9 billion parameters, 1.3 billion of them at work on a token."""

_TINY = replace(
    OLMOE,
    vocab_size=128,
    hidden_size=32,
    layers=2,
    heads=2,
    kv_heads=2,
    head_size=16,
    ffn_size=16,
    max_positions=256,
    moe=MoeConfig(experts=8, top_k=2, expert_size=16, renormalise=False),
)
_DEVIATION = 0.02


def olmoe(setting: Setting, layers: int | None = None) -> ModelConfig:
    """Return OLMoE-1B-7B, or a tiny model like it; perhaps with fewer layers."""
    config = _TINY if setting.tiny else OLMOE
    return replace(config, layers=min(layers or config.layers, config.layers))


def one_layer(setting: Setting) -> tuple[ModelConfig, Share]:
    """Return a model of one layer without its ends, and the share that holds it."""
    config = olmoe(setting, layers=1)
    return config, replace(whole(config), embedding=False, head=False)


def random_weights(setting: Setting, dtype: torch.dtype = torch.float32) -> ReadTensor:
    """Return a reader of weights that are drawn on the device: 7 billion in a moment."""

    def read(tensor: TensorSlice) -> Tensor:
        weights = torch.empty(tensor.shape, device=setting.torch_device, dtype=dtype)
        if tensor.role.part in NORMS:
            return weights.fill_(1.0)
        return weights.zero_() if tensor.role.bias else weights.normal_(std=_DEVIATION)

    return read


def trained(decoder: Decoder, bank: BankName | None = None) -> Decoder:
    """Return a decoder as training holds it: in buckets, with gradients in float32.

    All its mixtures of experts are held to one bank; None lets each take what suits it.
    """
    buckets_of(decoder, replica=0, replicas=1, gang=1)
    for module in decoder.modules():
        if isinstance(module, Experts):
            module.bank = bank
    return decoder


def losses(config: ModelConfig) -> Balance:
    """Return the losses of routers that training has by default."""
    return Balance(coefficients=dict.fromkeys(config.moe_layers, 1e-3))


def kind(setting: Setting) -> str:
    """Return the kind of the device, as plans name it."""
    if not setting.cuda:
        return CPU
    card = torch.cuda.get_device_properties(0)
    return kind_of_gpu(card.name, card.total_memory)
