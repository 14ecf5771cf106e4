"""An adapter out of a run that peft reads and raymoe serves, and into its model as peft merges."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file

from moe.checkpoint.adapters.files import WEIGHTS, AdapterFiles
from moe.checkpoint.adapters.start import Start
from moe.checkpoint.adapters.writing import write_adapter
from moe.checkpoint.reader import Checkpoint
from moe.config.run import tuned_model
from moe.config.tensors import saved
from moe.errors import CheckpointError
from moe.surgery.adapter import merge_adapter
from tests import lora, parity, runs, tiny

ALL = ["attention", "feed_forward", "experts", "router"]
TARGETS = {
    "llama": ALL[:2],
    "mixtral": ["attention", "experts", "router"],
    "olmoe": ["experts"],
    "qwen2_moe": ALL,
}


def model_of(family: str, path: Path, **options: Any) -> Path:
    return tiny.saved(tiny.model(family, **options), path / "model")


def written(model: Path, targets: list[str], to: Path, **lora_options: Any) -> Path:
    """Write random factors of a model as an adapter."""
    section = {"rank": 3, "alpha": 6.0, "targets": targets} | lora_options
    run = runs.run_config(model, train={"lora": section})
    config = tuned_model(run, Checkpoint.open(model).config)
    generator = torch.Generator().manual_seed(1)
    values = {
        each.name: 0.3 * torch.randn(each.shape, generator=generator) for each in saved(config)
    }
    to.mkdir()
    write_adapter(to, config, lambda part: values[part.name], str(model))
    start = Start(config, to)
    assert all(start.read(each).equal(values[each.name]) for each in saved(config))
    return to


def merged_by_peft(model: Path, adapter: Path) -> Any:
    with lora.quiet():
        base = transformers.AutoModelForCausalLM.from_pretrained(model, dtype="auto")
        return peft.PeftModel.from_pretrained(base, adapter).merge_and_unload()


@pytest.mark.parametrize("family", TARGETS)
def test_what_we_write_peft_reads_and_merges_as_we_do(family: str, tmp_path: Path) -> None:
    model = model_of(family, tmp_path)
    rslora = family == "llama"
    adapter = written(model, TARGETS[family], tmp_path / "adapter", rslora=rslora)
    AdapterFiles(adapter, Checkpoint.open(model).config)
    theirs = merged_by_peft(model, adapter)
    to = tmp_path / "merged"
    moved = merge_adapter(model, adapter, to)
    assert moved.max_absolute > 1e-2
    ours = transformers.AutoModelForCausalLM.from_pretrained(to)
    expected = theirs.state_dict()
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=1e-6)
    tokens = tiny.tokens(97, 2, 9)
    with torch.inference_mode():
        assert parity.close(ours(tokens).logits, theirs(tokens).logits)
        assert parity.close(lora.Adapted(model, adapter).logits(tokens[0]), ours(tokens).logits[0])


def test_an_adapter_of_peft_goes_into_bfloat16_weights(tmp_path: Path) -> None:
    """Sums are rounded once; peft rounds what is added first, so the last bit may differ."""
    model = tmp_path / "model"
    tiny.mixtral().to(torch.bfloat16).save_pretrained(model)
    adapter = lora.adapter(
        model, tmp_path / "adapter", target_modules=[*lora.ATTENTION, "w1", "w2", "w3", "gate"]
    )
    merge_adapter(model, adapter, tmp_path / "merged")
    ours = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto")
    expected = merged_by_peft(model, adapter).state_dict()
    for name, value in ours.state_dict().items():
        assert value.dtype == expected[name].dtype == torch.bfloat16
        torch.testing.assert_close(value, expected[name], atol=2e-3, rtol=2**-7)


def test_the_receipt_and_what_stays(tmp_path: Path) -> None:
    model = model_of("llama", tmp_path)
    adapter = written(model, ["attention"], tmp_path / "adapter")
    merge_adapter(model, adapter, tmp_path / "merged")
    receipt = json.loads((tmp_path / "merged" / "receipt.json").read_text())
    assert receipt["method"] == "merge-adapter"
    assert receipt["source"] == "model"
    assert set(receipt["options"]["adapter_files"]) == {"adapter_config.json", WEIGHTS}
    assert {"config.json", "model-00001-of-00001.safetensors"} <= receipt["files"].keys()
    assert receipt["distance"]["max_absolute"] > 0
    assert "merge-adapter" in (tmp_path / "merged" / "README.md").read_text()
    before, after = Checkpoint.open(model), Checkpoint.open(tmp_path / "merged")
    stays = "model.layers.0.mlp.up_proj.weight"
    assert after.shards.read(stays).equal(before.shards.read(stays))


@pytest.mark.parametrize(
    ("alpha", "message"),
    [
        (1e40, r"q_proj.weight with what .* has NaN or infinity"),
        (1e38, r"computes NaN or infinity"),
    ],
)
def test_numbers_that_are_not_finite(alpha: float, message: str, tmp_path: Path) -> None:
    model = model_of("llama", tmp_path)
    adapter = written(model, ["attention"], tmp_path / "adapter", alpha=alpha)
    with pytest.raises(CheckpointError, match=message):
        merge_adapter(model, adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 2}, r"rank 3 and scale 2 for model.*, \[train.lora\] rank 2"),
        ({"alpha": 5.0}, "give the adapter's rank, alpha and rslora"),
        ({"targets": ["attention", "router"]}, r"lacks model.layers.0.mlp.gate.lora_A.weight"),
        ({"targets": ["experts"]}, r"and has model.layers.0.self_attn.k_proj.lora_A"),
    ],
)
def test_a_start_that_is_not_the_runs(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model = model_of("mixtral", tmp_path)
    adapter = written(model, ["attention"], tmp_path / "adapter")
    section = {"rank": 3, "alpha": 6.0, "targets": ["attention"]} | options
    run = runs.run_config(model, train={"lora": section})
    with pytest.raises(CheckpointError, match=message):
        Start(tuned_model(run, Checkpoint.open(model).config), adapter)


def test_experts_as_peft_stacks_them(tmp_path: Path) -> None:
    model = model_of("mixtral", tmp_path)
    stored = load_file(written(model, ["experts"], tmp_path / "adapter") / WEIGHTS)
    at = "base_model.model.model.layers.2.mlp.experts"
    assert stored[f"{at}.base_layer.lora_A.weight"].shape == (4 * 3, 24)
    assert stored[f"{at}.base_layer.lora_B.weight"].shape == (2 * 40, 3 * 4)
    assert stored[f"{at}.lora_A.weight"].shape == (4 * 3, 40)
    assert stored[f"{at}.lora_B.weight"].shape == (24, 3 * 4)
