"""Every family on the device against the CPU in float64: output, loss, and each gradient.

The choice of experts is made once, on the CPU, and told to every other run: where two experts are
nearly as good, rounding decides between them, and all that follows would differ. How often the
device would have chosen alike is counted beside it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu.families import Case, cases
from benchmarks.gpu.layers import trained
from benchmarks.gpu.rows import Figure, Row, Setting, at_most, attempted, holds
from moe.config.role import NORMS
from moe.config.tensors import TensorSlice
from moe.nn.build import build
from moe.nn.exchange import Alone
from moe.nn.experts.experts import BankName
from moe.nn.later import Later
from moe.surgery.seeds import generator

REFERENCE = torch.float64

FLOAT32, BFLOAT16 = 2e-5, 2e-2
"""Differences that are allowed, relative: float32 to the largest entry, bf16 to the norm."""

ALIKE = 0.999
"""The part of the choices that float32 must make as float64 does."""

_FLOOR = 0.1
"""A tensor smaller than this part of the largest is compared with that part."""

_SEED, _SIZE = 3, (2, 16)

Size = Callable[[Tensor], float]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one pass gives: the hidden states before the head, the loss, gradients by name."""

    hidden: Tensor
    loss: float
    gradients: dict[str, Tensor]


class Told(Alone):
    """A gang of one that keeps what it is asked to agree on, or answers from what another kept."""

    def __init__(self, kept: list[Tensor] | None = None) -> None:
        self.kept: list[Tensor] = []
        self._answers = None if kept is None else iter(kept)
        self._alike = self._asked = 0

    @property
    def alike(self) -> float:
        """The part of the choices that would have been the same."""
        return self._alike / self._asked if self._asked else 1.0

    def agree(self, x: Tensor) -> Tensor:
        """Return the answer kept of the same question, or x and keep it."""
        if self._answers is None:
            self.kept.append(x.cpu())
            return x
        answer = next(self._answers).to(x.device)
        both = (x, answer) if x.dtype == torch.bool else (x.sort().values, answer.sort().values)
        self._alike += int(torch.eq(*both).sum())
        self._asked += x.numel()
        return answer


def part(setting: Setting) -> Iterator[Row]:
    """Yield a row for each family and option, of a mixture of experts one for each bank."""
    torch.set_float32_matmul_precision("highest")
    for case in cases():
        kept = Told()
        expected = run(case, torch.device("cpu"), REFERENCE, kept)
        banks: tuple[BankName | None, ...] = ("loop", "grouped") if case.config.moe else (None,)
        for bank in banks:
            what = case.name if bank is None else f"{case.name}, {bank}"
            yield attempted(what, partial(_compared, setting, case, bank, expected, kept))


def _compared(
    setting: Setting, case: Case, bank: BankName | None, expected: Outcome, kept: Told
) -> Row:
    """Run a case in both precisions; on a GPU the grouped bank is for bf16 alone."""
    figures: dict[str, Figure] = {}
    bars = []
    precisions = [(torch.float32, _largest_entry, FLOAT32), (torch.bfloat16, _norm, BFLOAT16)]
    for dtype, size, most in precisions[setting.cuda and bank == "grouped" :]:
        name = str(dtype).removeprefix("torch.")
        told = Told(kept.kept)
        found = run(case, setting.torch_device, dtype, told, bank)
        gaps, where = differences(expected, found, size)
        figures |= {f"{name} {what}": gap for what, gap in gaps.items()}
        figures |= {f"{name} largest in": where, f"{name} chooses alike": told.alike}
        bars.append(at_most(name, max(gaps.values()), most))
        if dtype == torch.float32:
            bars.append(holds(f"{name} chooses alike", told.alike > ALIKE))
    return Row(case.name if bank is None else f"{case.name}, {bank}", figures, tuple(bars))


def run(
    case: Case,
    device: torch.device,
    dtype: torch.dtype,
    exchange: Told,
    bank: BankName | None = None,
) -> Outcome:
    """Do one training pass in a precision; where it is no reference, with all that training has."""
    decoder = build(case.config, _weight, None, exchange, device, dtype)
    if dtype != REFERENCE:
        trained(decoder, bank)
    source = torch.Generator().manual_seed(_SEED)
    tokens = torch.randint(case.config.vocab_size, _SIZE, generator=source).to(device)
    how = replace(case.how, tokens=tokens, later=Later() if case.deferred else None)
    hidden = decoder(tokens, how).values
    loss = decoder.loss(hidden, tokens.roll(-1, 1), 1.0 / tokens.numel())
    torch.autograd.backward(loss)
    if how.later is not None:
        how.later.run()
    gradients = {
        name: torch.zeros_like(each) if each.grad is None else each.grad
        for name, each in decoder.named_parameters()
        if each.requires_grad
    }
    return Outcome(hidden.detach(), loss.item(), gradients)


def differences(expected: Outcome, found: Outcome, size: Size) -> tuple[dict[str, float], str]:
    """Return the relative differences of output, loss and gradients, and where the last is worst.

    A gradient without an entry of size is compared with a part of the largest.
    """
    floor = _FLOOR * max(size(each) for each in expected.gradients.values())
    own = {
        name: _gap(each, found.gradients[name], size, floor)
        for name, each in expected.gradients.items()
    }
    worst = max(own, key=lambda name: own[name])
    gaps = {
        "output": _gap(expected.hidden, found.hidden, size, 0.0),
        "loss": abs(found.loss - expected.loss) / abs(expected.loss),
        "gradient": own[worst],
    }
    return gaps, worst


def _gap(expected: Tensor, found: Tensor, size: Size, floor: float) -> float:
    expected, found = expected.double().cpu(), found.double().cpu()
    return size(found - expected) / max(size(expected), floor, torch.finfo(torch.float64).tiny)


def _largest_entry(x: Tensor) -> float:
    return float(x.abs().max())


def _norm(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x.double()))


def _weight(tensor: TensorSlice) -> Tensor:
    """Return weights that bf16 holds exactly, so that the arithmetic alone is compared.

    They are as large as a bound of 2e-2 on every gradient in bf16 allows.
    """
    noise = torch.randn(tensor.shape, generator=generator(_SEED, tensor.name))
    weights = 1.0 + 0.2 * noise if tensor.role.part in NORMS else 0.08 * noise
    return weights.bfloat16().float()
