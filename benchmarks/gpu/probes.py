"""What ``F.grouped_mm`` does here: each question is asked, and the answer or the error is kept."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.rows import Figure, Row, Setting, holds

_SIZES = (5, 0, 17, 10)
"""Rows of each group: no multiple of 8, and one group is empty."""

_TAIL = 6
"""Rows after the last group."""

_CLOSE = 2e-2

_NAMES = (
    "distributed.reduce_scatter_single",
    "distributed.reduce_scatter_tensor",
    "distributed.all_gather_single",
    "distributed.all_gather_into_tensor",
    "Tensor.grad_dtype",
    "nn.functional.grouped_mm",
    "nn.functional.scaled_grouped_mm",
)
"""Names that came or went between versions of torch, and that raymoe uses or may use."""

Answer = dict[str, Figure]


def part(setting: Setting) -> Iterator[Row]:
    """Yield one row a question; only agreement with a loop, and repeated bits, have a bar."""
    yield Row("names that torch has", {name: _has(name) for name in _NAMES})
    if not hasattr(F, "grouped_mm"):
        yield Row("F.grouped_mm", {"answer": "this torch has none; 2.10 is the first with it"})
        return
    questions: dict[str, Callable[[Setting], Answer]] = {
        "forward, bf16": _forward,
        "forward, float32": lambda where: _forward(where, torch.float32),
        "out_dtype float32": _wide_output,
        "gradients of autograd": _gradients,
        "empty group": _empty_group,
        "rows after the last group": _tail,
        "two runs": _two_runs,
        "K = 36, no multiple of 8": _unaligned,
    }
    for name, question in questions.items():
        try:
            answer = question(setting)
        except (RuntimeError, NotImplementedError, ValueError) as error:
            answer = {"answer": "refused", "error": " ".join(str(error).split())[:200]}
        agrees = answer.get("agrees")
        bars = () if agrees is None else (holds(f"{name} agrees", bool(agrees)),)
        yield Row(f"grouped_mm: {name}", answer, bars)


def _has(name: str) -> bool:
    """Tell whether torch has a name."""
    found: object = torch
    for word in name.split("."):
        found = getattr(found, word, None)
    return found is not None


def _operands(
    setting: Setting, dtype: torch.dtype, inner: int = 64, tail: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows [A, K], weights [N, O, K] as they lie in a bank, and the ends of the groups."""
    source = torch.Generator().manual_seed(1)
    rows = torch.randn(sum(_SIZES) + tail, inner, generator=source)
    weights = torch.randn(len(_SIZES), 32, inner, generator=source) / inner**0.5
    ends = torch.tensor(_SIZES).cumsum(0).to(torch.int32)
    device = setting.torch_device
    return rows.to(device, dtype), weights.to(device, dtype), ends.to(device)


def _loop(rows: Tensor, weights: Tensor, sizes: Sequence[int] = _SIZES) -> Tensor:
    """Return the same products one by one, in float32."""
    parts = torch.split(rows.float(), list(sizes))
    return torch.cat([x @ w.float().t() for x, w in zip(parts, weights, strict=True)])


def _gap(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference relative to the largest entry."""
    return ((found.float() - expected).abs().max() / expected.abs().max()).item()


def _judged(gap: float) -> Answer:
    return {"answer": "yes", "gap": gap, "agrees": gap <= _CLOSE}


def _forward(setting: Setting, dtype: torch.dtype = torch.bfloat16) -> Answer:
    rows, weights, ends = _operands(setting, dtype)
    found = F.grouped_mm(rows, weights.transpose(1, 2), offs=ends)
    return _judged(_gap(found, _loop(rows, weights)))


def _wide_output(setting: Setting) -> Answer:
    rows, weights, ends = _operands(setting, torch.bfloat16)
    found = F.grouped_mm(rows, weights.transpose(1, 2), offs=ends, out_dtype=torch.float32)
    return _judged(_gap(found, _loop(rows, weights))) | {"dtype": str(found.dtype)}


def _gradients(setting: Setting) -> Answer:
    """The input's gradient is a product of ragged rows, the weights' one of ragged inner sizes."""
    rows, weights, ends = _operands(setting, torch.bfloat16)
    own = [each.clone().requires_grad_() for each in (rows, weights)]
    exact = [each.float().requires_grad_() for each in (rows, weights)]
    found = F.grouped_mm(own[0], own[1].transpose(1, 2), offs=ends)
    expected = _loop(exact[0], exact[1])
    gradient = torch.randn(found.shape, generator=torch.Generator().manual_seed(2))
    gradient = gradient.to(found)
    torch.autograd.backward(found, gradient)
    torch.autograd.backward(expected, gradient.float())
    pairs = [(one.grad, two.grad) for one, two in zip(own, exact, strict=True)]
    return _judged(max(_gap(one, two) for one, two in pairs if one is not None and two is not None))


def _empty_group(setting: Setting) -> Answer:
    """The weights of an expert without tokens must get a gradient of zeros."""
    rows, weights, ends = _operands(setting, torch.bfloat16)
    weights = weights.clone().requires_grad_()
    found = F.grouped_mm(rows, weights.transpose(1, 2), offs=ends)
    torch.autograd.backward(found, torch.ones_like(found))
    assert weights.grad is not None
    zero = not weights.grad[_SIZES.index(0)].any().item()
    return {"answer": "zeros" if zero else "not zeros", "agrees": zero}


def _tail(setting: Setting) -> Answer:
    """A row after the last group may hold anything: the bank must not read it."""
    rows, weights, ends = _operands(setting, torch.bfloat16, tail=_TAIL)
    found = F.grouped_mm(rows, weights.transpose(1, 2), offs=ends)
    gap = _gap(found[:-_TAIL], _loop(rows[:-_TAIL], weights))
    zeros = not found[-_TAIL:].any().item()
    return _judged(gap) | {"answer": "zeros this time" if zeros else "left as they were"}


def _unaligned(setting: Setting) -> Answer:
    rows, weights, ends = _operands(setting, torch.bfloat16, inner=36)
    found = F.grouped_mm(rows, weights.transpose(1, 2), offs=ends)
    return _judged(_gap(found, _loop(rows, weights)))


def _two_runs(setting: Setting) -> Answer:
    rows, weights, ends = _operands(setting, torch.bfloat16)
    runs = [F.grouped_mm(rows, weights.transpose(1, 2), offs=ends) for _ in range(5)]
    same = all(torch.equal(one, other) for one, other in pairwise(runs))
    return {"answer": "same bits" if same else "other bits", "agrees": same}
