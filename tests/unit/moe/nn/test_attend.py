"""Attention against its formula, and which kernel of torch is asked to compute it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from moe.nn.attend import attend
from tests.asked import Asked
from tests.examples import examples

CASES = [(5, 5, None), (1, 9, None), (4, 9, None), (9, 9, 3), (1, 9, 3), (4, 9, 3), (9, 9, 99)]
"""New positions, all positions, window."""

MASKED = {(4, 9, None): (-1, 0), (9, 9, 3): (2, 0), (4, 9, 3): (2, 0)}
"""Those that take a mask, and what they are to flash attention: positions before and after."""


def drawn(
    new: int, total: int, heads: tuple[int, int] = (4, 2), **how: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Return random queries, keys and values of three sequences."""
    torch.manual_seed(new + total)
    sizes = ((heads[0], new), (heads[1], total), (heads[1], total))
    query, key, value = (torch.randn(3, count, length, 8, **how) for count, length in sizes)
    return query, key, value


def by_formula(query: Tensor, key: Tensor, value: Tensor, window: int | None) -> Tensor:
    times, new, total = query.shape[1] // key.shape[1], query.shape[2], key.shape[2]
    key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
    scores = query @ key.transpose(2, 3) / query.shape[3] ** 0.5
    at = torch.arange(total - new, total)[:, None] - torch.arange(total)
    unseen = (at < 0) | (at >= (window or total))
    return scores.masked_fill(unseen, -torch.inf).softmax(-1) @ value


@settings(max_examples=examples(60))
@given(
    new=st.integers(1, 9),
    before=st.integers(0, 9),
    window=st.none() | st.integers(1, 20),
    heads=st.sampled_from([(4, 4), (4, 2), (4, 1), (1, 1)]),
)
def test_attention_equals_its_formula(
    new: int, before: int, window: int | None, heads: tuple[int, int]
) -> None:
    query, key, value = drawn(new, new + before, heads)
    found = attend(query, key, value, window)
    torch.testing.assert_close(found, by_formula(query, key, value, window))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cpu_runs_flash_attention(case: tuple[int, int, int | None], dtype: torch.dtype) -> None:
    new, total, window = case
    query, key, value = (x.requires_grad_() for x in drawn(new, total, dtype=dtype))
    with Asked() as asked, sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        attend(query, key, value, window).sum().backward()
    ((given, options),) = asked.calls
    chosen = torch._fused_sdp_choice(*given, **options)
    assert SDPBackend(chosen) == SDPBackend.FLASH_ATTENTION


@pytest.mark.parametrize("case", CASES)
def test_a_gpu_without_flash_attention_gets_heads_it_need_not_group(
    case: tuple[int, int, int | None],
) -> None:
    """Float32: the memory-efficient kernel takes masks, and no groups. Tensors without memory
    stand for those of a GPU.
    """
    new, total, window = case
    with Asked() as asked:
        found = attend(*drawn(new, total, device="meta"), window)
    assert found.shape == (3, 4, new, 8)
    (((query, key, value), options),) = asked.calls
    masked = case in MASKED
    assert query.shape[1] == key.shape[1] == value.shape[1] == 4
    assert not options["enable_gqa"]
    assert (options["attn_mask"] is not None) == masked
    assert options["is_causal"] == (new == total and not masked)


@pytest.fixture
def flashing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch say what it says of half precision on a GPU: flash attention takes no mask."""
    name = "torch.backends.cuda.can_use_flash_attention"
    monkeypatch.setattr(name, lambda asked: asked.attn_mask is None)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("flashing")
def test_a_gpu_with_flash_attention_gets_no_mask(
    case: tuple[int, int, int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    new, total, window = case
    windows: list[tuple[int, int]] = []
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", noted(windows))
    inputs = [x.requires_grad_() for x in drawn(new, total, device="meta", dtype=torch.bfloat16)]
    with Asked() as asked:
        found = attend(*inputs, window)
    found.sum().backward()
    assert found.shape == (3, 4, new, 8)
    assert [x.grad.shape for x in inputs if x.grad is not None] == [x.shape for x in inputs]
    assert windows == ([MASKED[case]] if case in MASKED else [])
    assert len(asked.calls) == (case not in MASKED)
    for (_, key, _), options in asked.calls:
        assert options["attn_mask"] is None
        assert options["enable_gqa"]
        assert key.shape[1] == 2


def noted(windows: list[tuple[int, int]]) -> Callable[..., Tensor]:
    """Return torch's function over sequences of unlike lengths, whose windows are written down."""
    from torch.nn.attention.varlen import varlen_attn

    def ask(query: Tensor, key: Tensor, value: Tensor, *sizes: Any, **how: Any) -> Tensor:
        windows.append(how["window_size"])
        counts = [len(query) // 3, len(key) // 3]
        assert list(sizes[2:]) == counts
        assert [each.shape for each in sizes[:2]] == [(4,), (4,)]
        found = varlen_attn(query, key, value, *sizes, **how)
        assert isinstance(found, Tensor)
        return found

    return ask


@pytest.mark.usefixtures("flashing")
def test_a_head_size_that_flash_attention_does_not_take_gets_a_mask() -> None:
    query, key, value = (x[..., :6] for x in drawn(4, 9, device="meta", dtype=torch.bfloat16))
    with Asked() as asked:
        attend(query, key, value, None)
    assert asked.calls[0][1]["attn_mask"].shape == (4, 9)


def test_keys_that_nobody_sees_are_not_read() -> None:
    query, key, value = drawn(4, 9)
    key[:, :, :3], value[:, :, :3] = torch.nan, torch.nan
    assert attend(query, key, value, 3).isfinite().all()
