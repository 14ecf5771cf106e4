"""Factors beside weights: logits and gradients are those of peft, and of one who answers too."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from actors.state.tuned import source_of
from moe.checkpoint.adapters.ours import cut, places
from moe.nn.build import build
from moe.nn.decoder import Decoder
from moe.nn.inference.rows import BLOCK, Rows, Segment
from moe.nn.inference.share import AnsweringShare
from moe.nn.inference.store import Store
from moe.nn.later import Later
from moe.nn.weights.dense import Dense
from moe.nn.weights.low_rank import LowRank
from tests import lora, parity, runs, tiny

SHARED = [f"shared_expert.{part}_proj" for part in ("gate", "up", "down")]
CASES: list[tuple[str, list[str], dict[str, Any]]] = [
    ("llama", ["attention", "feed_forward"], {"target_modules": "all-linear"}),
    ("qwen2", ["q_proj", "v_proj"], {"target_modules": ["q_proj", "v_proj"]}),
    ("mixtral", ["attention"], {"target_modules": [*lora.ATTENTION], "use_rslora": True}),
    (
        "mixtral",
        ["experts", "router"],
        {"target_modules": [], "target_parameters": [*lora.STACKED, *lora.ROUTER]},
    ),
    (
        "olmoe",
        ["attention", "experts", "router"],
        {
            "target_modules": [*lora.ATTENTION],
            "target_parameters": [*lora.STACKED, *lora.ROUTER],
        },
    ),
    ("qwen2_moe", ["feed_forward"], {"target_modules": SHARED}),
]


def made(family: str, path: Path, targets: list[str], **options: Any) -> tuple[Path, Path, Decoder]:
    """Return a model, an adapter of it by peft, and our decoder with that adapter as factors."""
    model = tiny.saved(tiny.model(family), path / "model")
    adapter = lora.adapter(model, path / "adapter", **options)
    section = {"rank": 4, "alpha": 6.0, "targets": targets, "start": str(adapter)}
    section["rslora"] = options.get("use_rslora", False)
    opened = source_of(runs.run_config(model, train={"lora": section}), None).open()
    return model, adapter, build(opened.config, opened.read_weight)


def loss(logits: Tensor, tokens: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum")


@pytest.mark.parametrize(("family", "targets", "options"), CASES)
def test_logits_and_gradients_are_those_of_peft(
    family: str, targets: list[str], options: dict[str, Any], tmp_path: Path
) -> None:
    model, adapter, ours = made(family, tmp_path, targets, **options)
    with lora.quiet():
        base = transformers.AutoModelForCausalLM.from_pretrained(model)
        theirs = peft.PeftModel.from_pretrained(base, adapter, is_trainable=True).eval()
    tokens = tiny.tokens(97, 3, 11)
    expected, found = theirs(tokens).logits, ours(tokens).values
    assert parity.close(found, expected)
    loss(expected, tokens).backward()
    loss(found, tokens).backward()
    wanted = {name: each.grad for name, each in theirs.named_parameters()}
    assert {
        each.requires_grad for name, each in ours.named_parameters() if "lora_" not in name
    } == {False}
    checked = 0
    for name, place in places(ours.config).items():
        key = place.key.replace(".weight", ".default.weight")
        gradient, own = wanted[key], ours.get_parameter(name).grad
        assert gradient is not None
        if own is None:  # An expert that no token came to.
            assert not cut(place, gradient, 4).any()
            continue
        scale = gradient.abs().max().item()
        torch.testing.assert_close(own, cut(place, gradient, 4), atol=1e-5 * scale, rtol=1e-4)
        checked += 1
    assert checked > len(places(ours.config)) // 2


@pytest.mark.parametrize("case", [0, 4, 5])
def test_whoever_answers_while_they_are_trained_adds_them(case: int, tmp_path: Path) -> None:
    family, targets, options = CASES[case]
    model, adapter, decoder = made(family, tmp_path, targets, **options)
    prompt = tiny.tokens(90, 1, 21)[0].tolist()
    share, store = (
        AnsweringShare(decoder, "fp32", own=False),
        Store(decoder.config, decoder.share, 8),
    )
    segment = Segment(0, len(prompt), 0, tuple(range(-(-len(prompt) // BLOCK))), 0)
    with torch.inference_mode():
        rows = Rows.of([segment], prompt)
        x = share.forward(share.embed(torch.tensor(prompt)), rows, store, (0, 3))
        found = share.logits(x)
    assert parity.close(found, lora.Adapted(model, adapter).logits(prompt))
    assert not parity.close(found, lora.Adapted(model, None).logits(prompt))


def test_a_low_rank_weight_is_its_sum() -> None:
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    base, down, up = drawn(6, 5), drawn(2, 5).requires_grad_(), drawn(9, 2).requires_grad_()
    weight = LowRank(Dense(base), down, up, 0.7, 3, 9)
    whole = base + 0.7 * up[3:] @ down
    x, y_grad, bias = drawn(4, 5), drawn(4, 6), drawn(6)
    assert Dense(base).parameters == ()
    with torch.no_grad():
        torch.testing.assert_close(weight.product(x, bias), x @ whole.T + bias)
        torch.testing.assert_close(weight.input_gradient(y_grad), y_grad @ whole)
    (x @ whole.T * y_grad).sum().backward()
    later = Later()
    expected = [down.grad, up.grad]
    down.grad = up.grad = None
    later.add(zip(weight.parameters, weight.gradients(x, y_grad), strict=True))
    later.run()
    for parameter, gradient in zip((down, up), expected, strict=True):
        assert parameter.grad is not None
        assert gradient is not None
        torch.testing.assert_close(parameter.grad, gradient)
