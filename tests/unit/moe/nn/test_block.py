"""A layer of experts keeps a GPU busy: whatever is routed how, the host waits for nothing.

The experts are those of a GPU, in the grouped bank.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from moe.nn.balance import Balance
from moe.nn.build import build
from moe.nn.decoder import Decoder, Pass
from moe.nn.dispatch import Capacity
from moe.nn.later import Later
from moe.surgery.initialise import initial
from tests import waits
from tests.routed import routed, settings_of

TOKENS = torch.arange(24).view(2, 12)
PADDED = torch.arange(12) < torch.tensor([[12], [7]])

ROUTERS: dict[str, dict[str, Any]] = {
    "softmax": {},
    "after the choice": {"softmax_after": True},
    "normalised": {"gate_norm": 0.5, "renormalise": False},
    "groups": {"score": "sigmoid", "balance_bias": True, "groups": 2, "top_groups": 1},
    "shared": {"shared_size": 11, "shared_gate": True, "dense_layers": (1,), "scale": 2.0},
    "hash": {"top_k": 1, "hashed": True},
}
PASSES = {
    "plain": Pass(),
    "padding": Pass(valid=PADDED, balance=settings_of("switch", "sequence")),
    "by probability": Pass(Capacity(0.8), settings_of("switch")),
    "by position": Pass(Capacity(0.8, "position", reweigh=False), settings_of("skywork")),
    "experts choose": Pass(Capacity(0.8, chooser="experts"), Balance(z=0.1), valid=PADDED),
    "by sequence": Pass(balance=settings_of("skywork", "sequence")),
    "by batch": Pass(Capacity(virtual_factor=1.1), settings_of("skywork", "global-batch")),
    "by batch, switch": Pass(balance=settings_of("switch", "global-batch")),
    "again": Pass(balance=settings_of("switch"), recompute=frozenset((0, 2))),
    "later": Pass(balance=settings_of("switch"), later=Later()),
    "not measured": Pass(measured=False, valid=PADDED),
}


def made(router: str, dtype: torch.dtype = torch.float32) -> Decoder:
    config = routed(**ROUTERS[router], expert_size=24)
    decoder = build(config, lambda tensor: initial(config, tensor, 0), dtype=dtype)
    for layer in config.moe_layers:
        experts = decoder.mixture(layer).experts
        experts.gather()
        experts.bank = "grouped"
    return decoder


def there_and_back(decoder: Decoder, how: Pass) -> None:
    output = decoder(TOKENS, replace(how, logits=False))
    decoder.loss(output.values, TOKENS.roll(-1, 1), 0.1).backward()
    if how.later is not None:
        how.later.run()


def check(router: str, how: Pass, dtype: torch.dtype = torch.float32) -> None:
    decoder = made(router, dtype)
    with waits.counted() as found:
        there_and_back(decoder, how)
    assert not found


@pytest.mark.parametrize("router", ROUTERS)
def test_no_router_lets_the_host_wait(router: str) -> None:
    check(router, Pass(Capacity(0.8), settings_of("switch")))


@pytest.mark.parametrize("how", PASSES)
def test_no_pass_lets_the_host_wait(how: str) -> None:
    check("softmax", PASSES[how])


def test_bfloat16_lets_the_host_wait_for_nothing() -> None:
    check("shared", PASSES["padding"], torch.bfloat16)


def masked(x: Tensor) -> Tensor:
    return x[x > 0].sum()


@pytest.mark.parametrize(
    ("work", "operations"),
    [
        (lambda x: x.sum().item(), {"_local_scalar_dense": 1}),
        (lambda x: 1 if x.sum() > 0 else 0, {"_local_scalar_dense": 1}),
        (lambda x: x.detach().tolist(), {"tolist": 1}),
        (lambda x: x.detach().numpy(), {"numpy": 1}),
        (lambda x: x.nonzero(), {"nonzero": 1}),
        (lambda x: x.long().bincount(), {"bincount": 2}),
        (lambda x: masked(x).backward(), {"a mask as an index": 2}),
        (lambda x: x[[0, 2]], {"a list as an index": 1}),
        (lambda x: torch.tensor([1, 2], device=x.device), {"numbers of the host on a device": 1}),
        (lambda x: torch.tensor([1, 2]).to(x.device), {"to": 1}),
        (lambda x: torch.tensor([1, 2]).to(x.device, non_blocking=True), {}),
        (lambda x: x.masked_fill(x > 0, 0.0).cumsum(0).sort(stable=True), {}),
    ],
)
def test_what_a_host_waits_for_is_counted(work: Any, operations: dict[str, int]) -> None:
    with waits.counted() as found:
        work(torch.arange(3.0, requires_grad=True))
    assert found == {(name, "tests/unit/moe/nn/test_block.py"): n for name, n in operations.items()}
