"""Upcycling by copy: the dense function kept, the receipt true, a failure without traces."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from moe import __version__
from moe.checkpoint.card.steps import RECEIPT
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.weight_files import SINGLE
from moe.config.model import FirstSegment, MoeConfig
from moe.config.tensors import tensors
from moe.errors import CheckpointError, ConfigError, StorageError
from moe.nn.build import build
from moe.surgery.copies import Noise
from moe.surgery.cuts import Split
from moe.surgery.streamed import logits
from moe.surgery.upcycle import UpcycleOptions, upcycle
from tests import tiny

OPTIONS = UpcycleOptions(experts=4, top_k=2)


def dense(path: Path, dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    return tiny.saved(tiny.llama(**changes).to(dtype), path / "dense")


def logits_of(path: Path, inputs: Tensor) -> Tensor:
    checkpoint = Checkpoint.open(path)
    with torch.no_grad():
        logits: Tensor = build(checkpoint.config, checkpoint.read)(inputs).values
    return logits


def transformers_logits(path: Path, inputs: Tensor) -> Tensor:
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.no_grad():
        logits: Tensor = model.eval()(inputs).logits
    return logits


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max().clamp(min=1.0))


@pytest.mark.parametrize("gate_norm", [None, 1.0])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kv_heads", [1, 3, 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_dense_function_is_kept(
    gate_norm: float | None, tied: bool, kv_heads: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    source = dense(tmp_path, dtype, tie_word_embeddings=tied, num_key_value_heads=kv_heads)
    receipt = upcycle(source, tmp_path / "moe", replace(OPTIONS, gate_norm=gate_norm))
    inputs = tiny.tokens(97, 2, 17)
    expected = transformers_logits(source, inputs)
    assert apart(logits_of(tmp_path / "moe", inputs), expected) <= 1e-5
    assert receipt.distance.max_absolute <= 1e-5 * max(1.0, expected.abs().max().item())
    assert receipt.distance.mean_absolute <= receipt.distance.max_absolute
    assert receipt.distance.same_argmax == 1.0
    result = Checkpoint.open(tmp_path / "moe")
    assert result.dtype == dtype
    assert result.config.family == ("mixtral" if gate_norm is None else "skywork_moe")


@pytest.mark.parametrize(
    ("experts", "top_k", "gate_norm"),
    [(1, 1, None), (2, 2, None), *((n, k, g) for n, k in ((3, 3), (5, 2)) for g in (None, 2.0))],
)
def test_any_count_of_experts_keeps_the_function(
    experts: int, top_k: int, gate_norm: float | None, tmp_path: Path
) -> None:
    source = dense(tmp_path)
    upcycle(source, tmp_path / "moe", UpcycleOptions(experts, top_k, gate_norm))
    inputs = tiny.tokens(97, 1, 9)
    expected = transformers_logits(source, inputs)
    assert apart(logits_of(tmp_path / "moe", inputs), expected) <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_transformers_loads_the_mixtral(dtype: torch.dtype, tmp_path: Path) -> None:
    source = dense(tmp_path, dtype)
    upcycle(source, tmp_path / "moe", OPTIONS)
    inputs = tiny.tokens(97, 2, 11)
    theirs = transformers_logits(tmp_path / "moe", inputs)
    assert apart(theirs, transformers_logits(source, inputs)) <= 1e-5
    assert apart(logits_of(tmp_path / "moe", inputs), theirs) <= 1e-5
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "moe", output_loading_info=True
    )
    assert type(model) is transformers.MixtralForCausalLM
    assert model.dtype == dtype
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_experts_are_bit_for_bit_copies_and_the_rest_is_kept(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    source = dense(tmp_path, dtype, tie_word_embeddings=False)
    upcycle(source, tmp_path / "moe", OPTIONS)
    before, result = load_file(source / SINGLE), Checkpoint.open(tmp_path / "moe")
    seen = set()
    for tensor in tensors(result.config):
        if ".router." in tensor.name:
            continue
        parent = tensor.name
        for expert in range(4):
            parent = parent.replace(f".experts.{expert}.", ".")
        seen.add(parent)
        value = result.read(tensor)
        assert value.dtype == dtype
        assert torch.equal(value, before[parent])
    assert seen == before.keys()


def test_mixed_types_are_kept_tensor_by_tensor(tmp_path: Path) -> None:
    source = dense(tmp_path, torch.bfloat16)
    before = load_file(source / SINGLE)
    for name in before:
        if name.endswith(("norm.weight", "up_proj.weight")):
            before[name] = before[name].float() + 1e-6
    save_file(before, source / SINGLE)
    receipt = upcycle(source, tmp_path / "moe", OPTIONS)
    result = load_file(next((tmp_path / "moe").glob("model-*")))
    assert torch.equal(result["model.norm.weight"], before["model.norm.weight"])
    copied = result["model.layers.2.block_sparse_moe.experts.3.w3.weight"]
    assert torch.equal(copied, before["model.layers.2.mlp.up_proj.weight"])
    assert result["model.embed_tokens.weight"].dtype == torch.bfloat16
    assert receipt.distance.max_absolute <= 1e-4


@pytest.mark.parametrize("seed", [-(2**200), 2**64, 10**30])
def test_any_seed_will_do(seed: int, tmp_path: Path) -> None:
    receipt = upcycle(dense(tmp_path), tmp_path / "moe", replace(OPTIONS, seed=seed))
    assert receipt.seed == seed


def test_a_full_disk_is_seen_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, real = dense(tmp_path), shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real._replace(free=10_000))
    with pytest.raises(StorageError, match=r"takes 0\.19 MB but .* has 10\.0 kB free; choose"):
        upcycle(source, tmp_path / "moe", OPTIONS)
    assert list(tmp_path.iterdir()) == [source]


def routers(path: Path) -> dict[str, Tensor]:
    checkpoint = Checkpoint.open(path)
    return {t.name: checkpoint.read(t) for t in tensors(checkpoint.config) if ".router." in t.name}


def test_the_seed_and_nothing_else_decides_the_routers(tmp_path: Path) -> None:
    source = dense(tmp_path)
    torch.manual_seed(1)
    upcycle(source, tmp_path / "one", OPTIONS)
    torch.manual_seed(2)
    upcycle(source, tmp_path / "same", OPTIONS)
    upcycle(source, tmp_path / "other", replace(OPTIONS, seed=1))
    one, same, other = (routers(tmp_path / name) for name in ("one", "same", "other"))
    assert len(one) == 3
    for name, value in one.items():
        assert torch.equal(value, same[name])
        assert not torch.equal(value, other[name])
    drawn = [*one.values(), *other.values()]
    assert len({tuple(value.flatten().tolist()) for value in drawn}) == 6, "no two gates are alike"
    for file in sorted((tmp_path / "one").iterdir()):
        assert sha(file) == sha(tmp_path / "same" / file.name)


def test_the_router_has_the_spread_it_was_asked_for(tmp_path: Path) -> None:
    upcycle(dense(tmp_path), tmp_path / "moe", replace(OPTIONS, experts=64, router_std=0.3))
    values = torch.cat([value.flatten() for value in routers(tmp_path / "moe").values()])
    assert values.std().item() == pytest.approx(0.3, rel=0.05)
    assert abs(values.mean().item()) < 0.02


def test_the_receipt_is_complete_and_true(tmp_path: Path) -> None:
    source, to = dense(tmp_path), tmp_path / "moe"
    (source / "tokenizer.json").write_text("{}")
    options = UpcycleOptions(4, 2, gate_norm=0.5, router_std=0.1, seed=7, probe_tokens=20)
    receipt = upcycle(source, to, options)
    table = json.loads((to / RECEIPT).read_text())
    assert table["raymoe"] == __version__
    assert (table["method"], table["seed"], table["source"]) == ("copy", 7, "dense")
    wanted = {"experts": 4, "top_k": 2, "gate_norm": 0.5, "router_std": 0.1}
    wanted |= {"family": "skywork_moe", "probe_tokens": 20}
    assert wanted.items() <= table["options"].items()
    assert table["source_files"] == {name: sha(source / name) for name in ("config.json", SINGLE)}
    written = {path.name for path in to.iterdir() if path.is_file()} - {RECEIPT}
    assert "tokenizer.json" in written
    assert table["files"] == {name: sha(to / name) for name in written}
    assert table["distance"]["tokens"] == 20
    assert table["distance"]["max_absolute"] == receipt.distance.max_absolute


def test_a_head_that_config_json_wrongly_ties_is_kept_and_said(tmp_path: Path) -> None:
    """Upcycled as transformers reads the source: with both tensors."""
    source, to, inputs = dense(tmp_path), tmp_path / "moe", tiny.tokens(97, 2, 11)
    table = load_file(source / SINGLE)
    table["lm_head.weight"] = 1.5 * table["model.embed_tokens.weight"].flip(0)
    save_file(table, source / SINGLE, {"format": "pt"})
    receipt = upcycle(source, to, OPTIONS)
    assert apart(transformers_logits(to, inputs), transformers_logits(source, inputs)) < 1e-5
    assert not Checkpoint.open(to).config.tie_embeddings
    (note,) = receipt.notes
    assert f"lm_head.weight in {source} is not model.embed_tokens.weight" in note
    assert json.loads((to / RECEIPT).read_text())["notes"] == [note]
    assert not Checkpoint.open(to).notes


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    upcycle(dense(tmp_path), tmp_path / "moe", OPTIONS, lambda *call: calls.append(call))
    stored = load_file(next((tmp_path / "moe").glob("model-*.safetensors")))
    total = sum(4 * value.numel() for value in stored.values())
    assert len(calls) == len(stored)
    assert calls == sorted(calls)
    assert calls[-1] == (total, total)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("after", [1, 20])
def test_an_interruption_leaves_nothing(
    error: type[BaseException], after: int, tmp_path: Path
) -> None:
    source = dense(tmp_path)
    before = {path.name: sha(path) for path in source.iterdir()}
    calls = []

    def stop(done: int, total: int) -> None:
        calls.append(done)
        if len(calls) == after:
            raise error

    with pytest.raises(error):
        upcycle(source, tmp_path / "moe", OPTIONS, stop)
    assert list(tmp_path.iterdir()) == [source]
    assert {path.name: sha(path) for path in source.iterdir()} == before
    upcycle(source, tmp_path / "moe", OPTIONS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top_k": 5}, "top-k is 5 but there are 4 experts"),
        ({"experts": 0}, "there are 0 experts"),
        ({"gate_norm": 0.0}, "gate norm is 0"),
        ({"gate_norm": 1.0, "router_std": 0.0}, "deviation, which is 0 .* remove --gate-norm"),
        ({"gate_norm": 1.0, "top_k": 4, "router": "zero"}, "million times .* --router normal"),
        ({"gate_norm": 1.0, "experts": 2}, "of 2 experts .* at least 3 experts, or remove"),
        ({"router": "zero"}, "lets 4 experts tie: .* the same 2 .* --router normal"),
        ({"router_std": 0.0}, "lets 4 experts tie: .* --router-std above 0"),
        ({"top_k": 1}, "the weight is always 1, .* add --no-renormalise, or raise --top-k to 2"),
        ({"top_k": 1, "score": "sigmoid"}, "the weight is always 1, .* add --no-renormalise"),
        ({"family": "llama"}, "cannot write family 'llama'; choose mixtral or .* or skywork_moe"),
        ({"family": "mixtral", "gate_norm": 1.0}, "mixtral format cannot say gate_norm = 1.0"),
        ({"gate_norm": float("nan")}, "gate norm is nan"),
        ({"router_std": -0.1}, "router_std is -0.1"),
        ({"router_std": float("nan")}, "router_std is nan .* must be finite and not negative"),
        ({"router_std": float("inf")}, "router_std is inf"),
        ({"probe_tokens": 0}, "probe_tokens 0"),
    ],
)
def test_wrong_options_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    source = dense(tmp_path)
    with pytest.raises(ConfigError, match=message):
        upcycle(source, tmp_path / "moe", replace(OPTIONS, **changes))
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_source_that_is_not_all_numbers_is_refused(value: float, tmp_path: Path) -> None:
    source, name = dense(tmp_path), "model.layers.1.mlp.up_proj.weight"
    table = load_file(source / SINGLE)
    table[name][3, 5] = value
    save_file(table, source / SINGLE)
    with pytest.raises(CheckpointError, match=f"{name} in .*dense holds NaN or infinity"):
        upcycle(source, tmp_path / "moe", OPTIONS)
    assert list(tmp_path.iterdir()) == [source]


def test_logits_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    source = dense(tmp_path, torch.float16)
    with pytest.raises(CheckpointError, match=r"router_std = 1e\+30 .* are not finite .* lower"):
        upcycle(source, tmp_path / "moe", replace(OPTIONS, router_std=1e30))
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_logits_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    source, to = dense(tmp_path, dtype), tmp_path / "moe"

    def tamper(done: int, total: int) -> None:
        if done == total:
            table = load_file(source / SINGLE)
            table["model.layers.1.mlp.up_proj.weight"] *= 1.1
            with (source / SINGLE).open("r+b") as file:  # in place: it is open elsewhere
                file.write(save(table, {"format": "pt"}))

    with pytest.raises(CheckpointError, match=r"computes different logits: .*e-0. of the largest"):
        upcycle(source, to, OPTIONS, tamper)
    assert not to.exists()


def test_a_model_whose_logits_are_all_zero_is_kept(tmp_path: Path) -> None:
    model = tiny.llama(tie_word_embeddings=False)
    model.lm_head.weight.data.zero_()
    source = tiny.saved(model, tmp_path / "dense")
    assert upcycle(source, tmp_path / "moe", OPTIONS).distance.relative == 0.0


def test_a_skywork_moe_without_normalisation_can_be_asked_for(tmp_path: Path) -> None:
    upcycle(dense(tmp_path), tmp_path / "moe", replace(OPTIONS, family="skywork_moe"))
    config = Checkpoint.open(tmp_path / "moe").config
    assert (config.family, config.moe) == ("skywork_moe", MoeConfig(4, 2, 40))


@pytest.mark.parametrize("first", ["even", "own"])
def test_copies_that_are_merged_keep_the_function(first: FirstSegment, tmp_path: Path) -> None:
    """Whatever the weights of equal experts, their sum is the expert."""
    source = dense(tmp_path, torch.bfloat16)
    options = replace(OPTIONS, top_k=1, segment_tokens=4, first_segment=first, first_dense=1)
    receipt = upcycle(source, tmp_path / "moe", options)
    inputs = tiny.tokens(97, 2, 17)
    assert apart(logits_of(tmp_path / "moe", inputs), transformers_logits(source, inputs)) <= 1e-5
    assert receipt.distance.relative < 1e-6
    config = Checkpoint.open(tmp_path / "moe").config
    moe = MoeConfig(4, 1, 40, segment_tokens=4, first_segment=first, dense_layers=(0,))
    assert (config.family, config.moe) == ("raymoe", moe)


def test_a_merged_model_is_computed_from_its_files_as_from_memory(tmp_path: Path) -> None:
    options = replace(OPTIONS, top_k=1, segment_tokens=5, method=Noise(0.5), router_std=2.0)
    receipt = upcycle(dense(tmp_path), tmp_path / "moe", options)
    assert receipt.distance.relative > 0.01
    inputs = tiny.tokens(97, 2, 17)
    streamed = logits(Checkpoint.open(tmp_path / "moe"), inputs)
    assert apart(streamed, logits_of(tmp_path / "moe", inputs)) <= 1e-5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "mixtral"}, "mixtral format cannot say segment_tokens = 4, .* .raymoe holds"),
        ({"method": Split()}, "method split makes experts of 10 columns, .* choose copy, noise"),
        ({"router": "zero"}, "a router of zeros merges all experts with equal weights"),
        ({"gate_norm": 1.0}, "merged for segments, which takes no gate_norm = 1.0"),
        ({"top_k": 2}, "a segment passes the 1 feed-forward"),
    ],
)
def test_what_merged_experts_do_not_take_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    options = replace(OPTIONS, **({"top_k": 1, "segment_tokens": 4} | changes))
    with pytest.raises(ConfigError, match=message):
        upcycle(dense(tmp_path), tmp_path / "moe", options)
    assert not (tmp_path / "moe").exists()


def test_a_source_with_experts_is_refused(tmp_path: Path) -> None:
    source = tiny.saved(tiny.mixtral(), tmp_path / "moe")
    with pytest.raises(ConfigError, match="mixtral model with experts already; give a dense one"):
        upcycle(source, tmp_path / "again", OPTIONS)


def test_a_source_with_feed_forward_biases_is_refused(tmp_path: Path) -> None:
    source = dense(tmp_path, mlp_bias=True)
    with pytest.raises(ConfigError, match="feed-forward biases and experts hold none"):
        upcycle(source, tmp_path / "moe", OPTIONS)


def test_a_taken_destination_is_refused_and_kept(tmp_path: Path) -> None:
    source, to = dense(tmp_path), tmp_path / "moe"
    to.mkdir()
    (to / "mine").write_text("kept")
    with pytest.raises(StorageError, match="exists and is not empty"):
        upcycle(source, to, OPTIONS)
    assert [path.name for path in to.iterdir()] == ["mine"]


def test_a_missing_or_damaged_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no model directory at"):
        upcycle(tmp_path / "nowhere", tmp_path / "moe", OPTIONS)
    source = dense(tmp_path)
    weights = source / SINGLE
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        upcycle(source, tmp_path / "moe", OPTIONS)
    assert list(tmp_path.iterdir()) == [source]
