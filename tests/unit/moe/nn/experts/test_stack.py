"""Stacks over the memory of parameters, and gradients that parameters have in common with them."""

import pytest
import torch
from torch import Tensor

from moe.nn.experts import stack
from moe.nn.experts.experts import Experts
from moe.nn.experts.stack import Stack


def gathered(numbers: tuple[int, ...] = (0, 1, 2)) -> Experts:
    experts = Experts(8, 16, numbers)
    experts.gather()
    return experts


def stacks_of(experts: Experts) -> tuple[Stack, Stack]:
    found = experts.stacks()
    assert found is not None
    return found


def matrices(experts: Experts) -> list[tuple[Tensor, Tensor]]:
    """Return gate above up, and down, of each expert."""
    rows = [[p.detach() for p in expert.parameters()] for expert in experts.values()]
    return [(torch.cat((gate, up)), down) for gate, up, down in rows]


@pytest.mark.parametrize("numbers", [(4,), (0, 1, 2), (7, 2)])
def test_a_stack_is_the_memory_of_its_parameters(numbers: tuple[int, ...]) -> None:
    experts = Experts(8, 16, numbers)
    before = matrices(experts)
    experts.gather()
    gate_up, down = stacks_of(experts)
    for row, (inner, outer) in enumerate(before):
        assert torch.equal(gate_up.value[row], inner)
        assert torch.equal(down.value[row], outer)
    with torch.no_grad():
        gate_up.value[-1, 16:].fill_(2.0)
    *_, (gate, up, _) = ([*expert.parameters()] for expert in experts.values())
    assert (up == 2.0).all()
    assert not (gate == 2.0).any()


def test_experts_that_lie_apart_are_no_stack() -> None:
    assert Experts(8, 16, [0, 1]).stacks() is None
    experts = gathered()
    experts["1"].up_proj.weight.data = experts["1"].up_proj.weight.data.clone()
    assert experts.stacks() is None
    swapped = gathered((0, 1))
    first, last = (swapped[key].down_proj.weight for key in ("0", "1"))
    first.data, last.data = last.data, first.data
    assert swapped.stacks() is None


def test_experts_of_which_some_are_trained_are_no_stack() -> None:
    experts = gathered()
    assert stacks_of(experts)[0].value.requires_grad
    experts["0"].requires_grad_(False)
    assert experts.stacks() is None
    experts.requires_grad_(False)
    assert not stacks_of(experts)[0].value.requires_grad


def test_a_stack_follows_its_parameters() -> None:
    experts = gathered()
    first = stacks_of(experts)
    experts.gather()
    assert experts.stacks() is first
    stack.gathered(list(experts.parameters()))
    second = stacks_of(experts)
    assert second[0].value.data_ptr() != first[0].value.data_ptr()
    assert second[0].value.data_ptr() == experts["0"].gate_proj.weight.data_ptr()
    experts.bfloat16()
    assert experts.stacks() is None
    experts.gather()
    assert stacks_of(experts)[1].value.dtype == torch.bfloat16


def test_gradients_of_a_stack_are_those_of_the_parameters() -> None:
    """Those there are kept, those of a flat buffer stay in it, and no others are invented."""
    experts = gathered((0, 1))
    gate_up, down = stacks_of(experts)
    experts["1"].gate_proj.weight.grad = torch.full((16, 8), 3.0)
    gate_up.accumulate(torch.ones(2, 32, 8))
    assert experts["1"].gate_proj.weight.grad.eq(4.0).all()
    assert experts["0"].up_proj.weight.grad.eq(1.0).all()
    assert experts["0"].down_proj.weight.grad is None
    for expert in experts.values():
        expert.zero_grad()
    gate_up.accumulate(torch.ones(2, 32, 8))
    assert experts["1"].gate_proj.weight.grad.eq(1.0).all()
    buffer, start = torch.zeros(2 * 3 * 128), 0
    for parameter in experts.parameters():
        parameter.grad = buffer[start : start + 128].view(parameter.shape)
        start += 128
    down.accumulate(torch.ones(2, 8, 16))
    assert buffer.view(2, 3, 128).sum((0, 2)).tolist() == [0.0, 0.0, 256.0]


def test_gradients_that_vanish_between_the_passes_are_made_anew() -> None:
    experts = gathered((0, 1))
    experts.bank = "grouped"
    chosen, weights = torch.tensor([[0], [1]]), torch.ones(2, 1)
    for _ in range(2):
        y = experts(torch.ones(2, 8), chosen, weights, weights.bool())
        experts.zero_grad()
        y.sum().backward()
    again = [parameter.grad for parameter in experts.parameters()]
    experts.bank = "loop"
    experts.zero_grad()
    experts(torch.ones(2, 8), chosen, weights, weights.bool()).sum().backward()
    torch.testing.assert_close([parameter.grad for parameter in experts.parameters()], again)
