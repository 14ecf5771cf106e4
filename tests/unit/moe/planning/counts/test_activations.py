"""What a block is counted to keep, against what autograd is seen to keep."""

from dataclasses import replace

import pytest
import torch

from moe.config.model import ModelConfig
from moe.config.share import Share, whole
from moe.nn.build import build
from moe.nn.decoder import Pass
from moe.nn.experts.experts import BankName, Experts
from moe.planning.counts.activations import block_activations
from moe.planning.counts.workload import BF16, FLOAT32, Numerics, Workload
from moe.surgery.initialise import initial
from tests.plans import FINE, SMOLLM2, with_experts

WORKLOAD = Workload(sequence_length=512, micro_batch=2, micro_batches=8)


def seen(config: ModelConfig, share: Share, dtype: torch.dtype, bank: BankName = "loop") -> float:
    """Return the bytes for each token that autograd keeps of the layers of a share."""
    decoder = build(config, lambda part: initial(config, part, 0), share, dtype=dtype)
    for module in decoder.modules():
        if isinstance(module, Experts):
            module.gather()
            module.bank = bank
    held = {each.untyped_storage().data_ptr() for each in decoder.parameters()}
    found = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            found[storage.data_ptr()] = storage
        return tensor

    hidden = torch.randn(1, 256, config.hidden_size, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        values = decoder(hidden, Pass()).values
    assert values.dtype == torch.float32
    rotation = 2 * 4 * config.head_size  # cosines and sines, once for all layers
    return sum(storage.nbytes() for storage in found.values()) / 256 - rotation


@pytest.mark.parametrize(
    ("config", "layer"),
    [
        (SMOLLM2, 3),
        (replace(SMOLLM2, query_key_norm="head"), 3),
        (with_experts(SMOLLM2, 4), 3),
        (FINE, 1),
    ],
)
@pytest.mark.parametrize("numerics", [FLOAT32, BF16])
def test_a_block_keeps_what_autograd_is_seen_to_keep(
    config: ModelConfig, layer: int, numerics: Numerics
) -> None:
    share = replace(whole(config), layers=(layer, layer + 1), embedding=False, head=False)
    dtype = torch.bfloat16 if numerics is BF16 else torch.float32
    work = replace(WORKLOAD, numerics=numerics)
    counted = numerics.activation * block_activations(config, share, layer, work)
    assert counted == pytest.approx(seen(config, share, dtype), rel=0.015)


def test_a_gang_of_gpus_in_bf16_keeps_room_for_all_pairs() -> None:
    config = with_experts(SMOLLM2, 4)
    share = replace(whole(config), layers=(3, 4), experts=(1, 2), embedding=False, head=False)
    work = replace(WORKLOAD, numerics=BF16, gpus=True)
    counted = 2 * block_activations(config, share, 3, work)
    assert counted == pytest.approx(seen(config, share, torch.bfloat16, "grouped"), rel=0.015)
    alone = 2 * block_activations(config, replace(share, experts=(0, 1, 2, 3)), 3, work)
    assert counted == alone
    own = block_activations(config, share, 3, replace(work, gpus=False))
    tight, loose = (
        block_activations(config, share, 3, replace(work, capacity_factor=factor)) - own
        for factor in (1.5, 9.0)
    )
    assert (tight, loose) == (2 * 1536 * 0.5, 2 * 1536 * 1.0)
    exact = replace(work, numerics=FLOAT32)
    assert block_activations(config, share, 3, exact) == block_activations(
        config, share, 3, replace(exact, gpus=False)
    )
