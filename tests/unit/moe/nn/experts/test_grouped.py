"""Where the grouped bank is taken, and that the host waits for nothing in it."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu.rows import Setting
from benchmarks.gpu.waits import judged
from moe.config.model import MoeConfig
from moe.nn import dispatch
from moe.nn.dispatch import DROPLESS, Capacity
from moe.nn.experts import grouped
from moe.nn.experts.experts import Experts
from moe.nn.router import choose
from tests import waits


@pytest.mark.parametrize(
    "capacity",
    [
        DROPLESS,
        Capacity(1.25),
        Capacity(0.5, "position"),
        Capacity(1.1, chooser="experts"),
        Capacity(1.0, reweigh=False),
    ],
)
def test_no_wait_from_the_choice_of_experts_to_the_gradients(capacity: Capacity) -> None:
    config = MoeConfig(8, 2, 24)
    experts = Experts(16, 24, [1, 3, 6])
    experts.gather()
    experts.bank = "grouped"
    x = torch.randn(40, 16, requires_grad=True)
    logits, valid = torch.randn(40, 8), torch.arange(40) < 33
    with waits.counted() as found:
        routing, kept = dispatch.assign(choose(logits, config), capacity, config, valid)
        load = kept.sum(dim=0)
        dispatch.drop_rate(load, capacity.measured_factor)
        dispatch.untaken(kept, valid)
        room = dispatch.room(capacity, 40, config)
        y = experts(x, routing.experts, routing.weights, kept, room=room)
        y.square().sum().backward()
    assert not found
    with waits.counted() as found:
        assert experts.row_of_N.tolist()
    assert found


@pytest.mark.parametrize(
    ("device", "dtype", "capability", "expected"),
    [
        ("cuda", torch.bfloat16, (8, 0), True),
        ("cuda", torch.bfloat16, (9, 0), True),
        ("cuda", torch.bfloat16, (7, 5), False),
        ("cuda", torch.float32, (9, 0), False),
        ("cpu", torch.bfloat16, (9, 0), False),
    ],
)
def test_where_the_grouped_bank_is_taken(
    device: str,
    dtype: torch.dtype,
    capability: tuple[int, int],
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    with FakeTensorMode():
        assert grouped.suits(torch.empty(4, 8, dtype=dtype, device=device)) == expected


@pytest.mark.parametrize(
    ("major", "minor", "one"),
    [(8, 0, False), (8, 9, False), (9, 0, True), (10, 0, True), (12, 0, False)],
)
def test_grouped_products_are_one_kernel_on_hopper_and_blackwell(
    major: int, minor: int, one: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch decides by the major number alone; on an A100, a 4090 or a 5090 it waits."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major, minor))
    assert grouped.in_one_kernel(torch.device("cuda", 0)) == one
    assert judged(Setting("cuda", tiny=True)) == one
    assert not judged(Setting("cpu", tiny=True))
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert not grouped.in_one_kernel(torch.device("cuda", 0))


@pytest.mark.parametrize(
    ("hidden", "size", "expected"), [(8, 16, True), (12, 16, False), (8, 12, False), (8, 20, False)]
)
def test_matrices_begin_at_16_bytes(hidden: int, size: int, expected: bool) -> None:
    experts = Experts(hidden, size, [0, 1])
    experts.gather()
    stacks = experts.stacks()
    assert stacks is not None
    assert all(map(grouped.aligned, stacks)) == expected


def test_what_lies_behind_something_odd_is_not_aligned() -> None:
    experts = Experts(8, 16, [0, 1])
    memory = torch.zeros(4 + 6 * 128)
    place = 4
    for parameter in experts.parameters():
        parameter.data = memory[place : place + 128].view(parameter.shape)
        place += 128
    stacks = experts.stacks()
    assert stacks is not None
    assert not any(map(grouped.aligned, stacks))


def test_the_bank_reads_the_memory_of_the_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stacks reach the products as they lie, strided, without a copy."""
    seen: list[tuple[int, tuple[int, ...]]] = []

    class Products(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func._schema.name == "aten::_grouped_mm" and args[1].dim() == 3:
                seen.append((args[1].data_ptr(), args[1].stride()))
            return func(*args, **(kwargs or {}))

    experts = Experts(8, 16, [0, 1])
    experts.gather()
    experts.bank = "grouped"
    ones = torch.ones(3, 1)
    with Products():
        y: Tensor = experts(torch.ones(3, 8, requires_grad=True), ones.long(), ones, ones.bool())
        y.sum().backward()
    gate, down = (experts["0"].get_parameter(f"{each}_proj.weight") for each in ("gate", "down"))
    assert [place for place, _ in seen] == [each.data_ptr() for each in (gate, down, down, gate)]
    assert all(strides[0] == 3 * 128 for _, strides in seen)
