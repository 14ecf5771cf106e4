"""A pass over rows of several adapters gives for each what peft gives."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from moe.checkpoint.adapters.files import WEIGHTS, AdapterFiles
from moe.checkpoint.reader import Checkpoint
from moe.config.adapters import factor_bytes, groups
from moe.config.answering import WeightKind
from moe.config.share import whole
from moe.nn.build import build
from moe.nn.decoder import Decoder
from moe.nn.inference.adapters import BYTES, Additions, adapters_of, spans_of
from moe.nn.inference.operands import pack
from moe.nn.inference.rows import BLOCK, Rows, Segment
from moe.nn.inference.share import AnsweringShare
from moe.nn.inference.store import Store
from tests import lora, parity, tiny

CASES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"target_modules": "all-linear"}),
    ("llama", {"target_modules": ["q_proj", "v_proj"], "use_rslora": True, "r": 3}),
    ("qwen2", {"target_modules": ["k_proj", "o_proj", "up_proj"]}),
    ("mixtral", {"target_modules": [*lora.ATTENTION, "w1", "w2", "w3", "gate"]}),
    ("mixtral", {"target_parameters": [lora.STACKED[1]], "target_modules": ["v_proj"]}),
    ("olmoe", {"target_parameters": [*lora.STACKED, *lora.ROUTER], "target_modules": ["q_proj"]}),
    ("qwen2_moe", {"target_modules": "all-linear", "target_parameters": [*lora.STACKED]}),
    (
        "qwen3_moe",
        {
            "target_modules": [*lora.ATTENTION],
            "target_parameters": [lora.STACKED[0]],
            "rank_pattern": {"q_proj": 2, "layers.1.self_attn.k_proj": 7},
            "alpha_pattern": {"v_proj": 1.5, "gate_up_proj": 3},
        },
    ),
]


def logits(
    decoder: Decoder, share: AnsweringShare, wanted: list[tuple[int, list[int]]]
) -> list[Tensor]:
    """Return the logits of prompts with the adapter of each, in one pass."""
    store = Store(decoder.config, decoder.share, 40)
    free = iter(range(40))
    segments: list[Segment] = []
    for adapter, prompt in wanted:
        start = segments[-1].stop if segments else 0
        table = tuple(next(free) for _ in range(-(-len(prompt) // BLOCK)))
        segments.append(Segment(start, start + len(prompt), 0, table, adapter))
    tokens = [token for _, prompt in wanted for token in prompt]
    with torch.inference_mode():
        x = share.embed(torch.tensor(tokens))
        x = share.forward(x, Rows.of(segments, tokens), store, (0, decoder.config.layers))
        found = share.logits(x)
    return [found[each.start : each.stop] for each in segments]


def opened(model: Path, kind: WeightKind = "fp32") -> tuple[Decoder, AnsweringShare]:
    checkpoint = Checkpoint.open(model)
    decoder = build(checkpoint.config, checkpoint.read)
    return decoder, AnsweringShare(decoder, kind, own=False)


def prompt(count: int, seed: int = 0) -> list[int]:
    found: list[int] = tiny.tokens(90, 1, count, seed=seed)[0].tolist()
    return found


@pytest.mark.parametrize(("family", "options"), CASES)
def test_mixed_in_one_pass(family: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = tiny.saved(tiny.model(family), tmp_path / "model")
    first = lora.adapter(model, tmp_path / "first", seed=1, **options)
    second = lora.adapter(model, tmp_path / "second", seed=2, target_modules=["q_proj", "o_proj"])
    decoder, share = opened(model)
    for number, directory in ((1, first), (2, second)):
        share.adopt(number, AdapterFiles(directory, decoder.config).read)
    theirs = {
        number: lora.Adapted(model, directory)
        for number, directory in ((0, None), (1, first), (2, second))
    }
    assert not parity.close(theirs[1].logits(prompt(20)), theirs[0].logits(prompt(20)))
    wanted = [
        (adapter, prompt(count, seed))
        for seed, (adapter, count) in enumerate([(1, 20), (0, 7), (2, 1), (1, 1), (0, 1), (2, 33)])
    ]
    for (adapter, tokens), found in zip(wanted, logits(decoder, share, wanted), strict=True):
        assert parity.close(found, theirs[adapter].logits(tokens))


def test_experts_as_modules_of_their_own(tmp_path: Path) -> None:
    """As peft wrote them before transformers stacked the experts; peft still reads them."""
    model = tiny.saved(tiny.mixtral(), tmp_path / "model")
    made = lora.adapter(model, tmp_path / "one", target_modules=["w1", "w2", "w3", "q_proj"])
    stacked, old = load_file(made / WEIGHTS), {}
    sizes = {"w1": (24, 40), "w3": (24, 40), "w2": (40, 24)}
    generator = torch.Generator().manual_seed(3)
    for layer in range(3):
        for expert in range(4):
            for name, (columns, rows) in sizes.items():
                at = f"base_model.model.model.layers.{layer}.block_sparse_moe.experts.{expert}"
                old[f"{at}.{name}.lora_A.weight"] = 0.2 * torch.randn(
                    4, columns, generator=generator
                )
                old[f"{at}.{name}.lora_B.weight"] = 0.2 * torch.randn(rows, 4, generator=generator)
    old |= {name: each for name, each in stacked.items() if "q_proj" in name}
    save_file(old, made / WEIGHTS)
    plain = (made / "adapter_config.json").read_text()
    table = json.loads(plain) | {
        "target_modules": ["w1", "w2", "w3", "q_proj"],
        "target_parameters": None,
        "rank_pattern": {},
        "alpha_pattern": {},
    }
    (made / "adapter_config.json").write_text(json.dumps(table))
    decoder, share = opened(model)
    share.adopt(1, AdapterFiles(made, decoder.config).read)
    (found,) = logits(decoder, share, [(1, prompt(20))])
    assert parity.close(found, lora.Adapted(model, made).logits(prompt(20)))


@pytest.mark.parametrize(("kind", "near"), [("fp16", 5e-3), ("int8", 0.08)])
def test_packed_weights_are_near_and_rows_do_not_depend_on_others(
    kind: WeightKind, near: float, tmp_path: Path
) -> None:
    model = tiny.saved(tiny.mixtral(), tmp_path / "model")
    made = lora.adapter(model, tmp_path / "one", target_modules=["q_proj", "w1", "w2", "w3"])
    other = lora.adapter(model, tmp_path / "two", seed=5, target_modules=["q_proj", "o_proj"])
    decoder, share = opened(model, kind)
    share.adopt(1, AdapterFiles(made, decoder.config).read)
    share.adopt(2, AdapterFiles(other, decoder.config).read)
    (alone,) = logits(decoder, share, [(1, prompt(9))])
    assert parity.close(alone, lora.Adapted(model, made).logits(prompt(9)), tolerance=near)
    mixed = logits(decoder, share, [(1, prompt(9)), (2, prompt(30, 1)), (0, prompt(5, 2))])
    assert parity.close(mixed[0], alone, tolerance=1e-6)


def test_half_precision_files_and_dropping(tmp_path: Path) -> None:
    model = tiny.saved(tiny.llama(), tmp_path / "model")
    made = lora.adapter(model, tmp_path / "one", target_modules="all-linear")
    halves = {name: each.half() for name, each in load_file(made / WEIGHTS).items()}
    save_file(halves, made / WEIGHTS)
    decoder, share = opened(model)
    before = logits(decoder, share, [(0, prompt(12))])[0]
    share.adopt(7, AdapterFiles(made, decoder.config).read)
    (found,) = logits(decoder, share, [(7, prompt(12))])
    assert parity.close(found, lora.Adapted(model, made).logits(prompt(12)), tolerance=1e-3)
    assert share.adapters == {7}
    share.drop(7)
    assert share.adapters == set()
    assert torch.equal(logits(decoder, share, [(7, prompt(12))])[0], before)


def test_bytes_are_those_of_the_matrices(tmp_path: Path) -> None:
    model = tiny.saved(tiny.mixtral(), tmp_path / "model")
    made = lora.adapter(model, tmp_path / "one", target_modules=["q_proj", "v_proj"], r=2)
    config = Checkpoint.open(model).config
    files, share = AdapterFiles(made, config), whole(config)
    held = [found for group in groups(config, share) if (found := files.read(group))]
    numbers = sum(down.numel() + up.numel() for down, up in held)
    assert numbers == 3 * 4 * (24 + 48 + 24 + 24)
    for kind in ("fp32", "fp16", "int8"):
        each = BYTES[kind]  # type: ignore[index]
        assert factor_bytes(config, share, files.rank, each) == each * numbers


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), max_size=8), st.integers(0, 9))
def test_every_row_gets_what_its_own_adapter_adds(runs: list[tuple[int, int]], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = sum(count for _, count in runs)
    x, weight = torch.randn(rows, 6, generator=generator), torch.randn(5, 6, generator=generator)
    matrices = {
        own: (torch.randn(own, 6, generator=generator), torch.randn(5, own, generator=generator))
        for own in (1, 3)
    }
    added, operand = Additions("fp32"), pack("fp32", [weight])
    for own, (down, up) in matrices.items():
        added.put(own, down, up)
    spans = spans_of(runs)
    owners = [own for own, count in runs for _ in range(count)]
    assert adapters_of(spans, rows) == owners
    prepared = operand.prepared(x)
    found = added.to(operand.product(prepared), prepared, spans)
    for row, own in enumerate(owners):
        expected = weight @ x[row]
        if own in matrices:
            down, up = matrices[own]
            expected = expected + up @ (down @ x[row])
        assert torch.allclose(found[row], expected, atol=1e-5)
