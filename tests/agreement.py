"""What ranks hold after some steps, against one process, and against each other to the bit."""

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from actors.commands import StepReport
from moe.config.tensors import TensorSlice
from tests.ranks import Held, Team
from tests.reference import PlainTraining


def check_held(team: Team, plain: PlainTraining) -> None:
    """Compare weights, clipped gradients, moments and balance of every rank with one process."""
    expected = dict(plain.decoder.named_parameters())
    ranks = team.held()
    for held in ranks:
        for part, weight in held.weights:
            close(weight, cut(expected[part.name].detach(), part), part.name)
        for part, elements, owned in held.owned:
            state, gradient = plain.adam.state[expected[part.name]], expected[part.name].grad
            assert gradient is not None
            for name, found in owned.items():
                whole = gradient if name == "gradient" else state[name]
                close(found, cut(whole, part).flatten()[elements], f"{part.name} {name}")
        for layer, state in held.balance.items():
            close(torch.tensor(state.coefficient), torch.tensor(plain.alphas[layer]), "alpha")
            seen = plain.before[layer]
            close(torch.tensor(state.shares), seen.shares, "shares")
            close(torch.tensor(state.probabilities), seen.means, "probabilities")
    check_covered(team, ranks)
    check_same_bits(ranks)
    assert {layer for held in ranks for layer in held.balance} == set(plain.alphas)


def check_covered(team: Team, ranks: list[Held]) -> None:
    """Check that replicas own each element that they hold once, and every tensor is held."""
    size = team.plan.ranks
    for rank in range(size):
        replicas = ranks[rank::size]
        ranges: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for held in replicas:
            for part, elements, _ in held.owned:
                ranges[part.name].append((elements.start, elements.stop))
        for part, _ in replicas[0].weights:
            if not part.role.trained:
                continue
            found = sorted(ranges[part.name])
            assert [start for start, _ in found] == [0, *(stop for _, stop in found[:-1])]
            assert found[-1][1] == part.elements


def check_same_bits(ranks: list[Held]) -> None:
    """Check that wherever a tensor, or a part of it, is held twice, it is the same to the bit."""
    first: dict[TensorSlice, Tensor] = {}
    for held in ranks:
        for part, weight in held.weights:
            assert weight.equal(first.setdefault(part, weight)), part.name
    balance: dict[int, object] = {}
    for held in ranks:
        for layer, state in held.balance.items():
            assert state == balance.setdefault(layer, state)


def check_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Check that tensors are the same to the bit, all of them."""
    assert found.keys() == expected.keys()
    assert [name for name, value in found.items() if not value.equal(expected[name])] == []


def check_reports(reports: list[StepReport]) -> None:
    """Check that all drivers were told the same."""
    for report in reports[1:]:
        assert (report.loss, report.gradient_norm) == (reports[0].loss, reports[0].gradient_norm)
        assert report.layers == reports[0].layers


def cut(whole: Tensor, part: TensorSlice) -> Tensor:
    """Return the part of a tensor that a slice names."""
    if part.dim is None:
        return whole
    return whole.narrow(part.dim, part.start, part.stop - part.start)


def close(ours: Tensor, theirs: Tensor, name: str) -> None:
    """Compare relative to the largest number; differences of gradients that cancel are rounding."""
    gap = (ours - theirs).abs().max()
    assert gap <= 1e-4 * theirs.abs().max() + 1e-7, (name, gap, theirs.abs().max())
