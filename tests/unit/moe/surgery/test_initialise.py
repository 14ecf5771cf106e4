"""Models from nothing: every preset, made tiny, is written, opened and run."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from moe.checkpoint.card.steps import RECEIPT
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.remote import copy_remote_code
from moe.checkpoint.weight_files import INDEX
from moe.config.model import ModelConfig
from moe.config.model_overrides import override
from moe.config.presets import PRESETS
from moe.config.tensors import parameters, tensors
from moe.errors import ConfigError, StorageError
from moe.nn.build import build
from moe.surgery.initialise import initial, initialise

TINY = [
    "vocab_size=97",
    "hidden_size=24",
    "layers=3",
    "heads=4",
    "kv_heads=2",
    "head_size=6",
    "max_positions=64",
    "bos_token_id=1",
    "eos_token_ids=[2]",
]


def tiny(name: str) -> ModelConfig:
    """Return a preset with the sizes of a test; experts stay as many as they were."""
    config = PRESETS[name].config
    words = [*TINY, "ffn_size=12"]
    if config.moe is not None:
        shared = config.moe.shared_size // config.moe.expert_size
        size = 12 if config.family == "skywork_moe" or config.moe.merged else 4
        words += [f"expert_size={size}", f"shared_size={4 * shared}"]
    return override(config, words)


@pytest.mark.parametrize("name", PRESETS)
def test_a_tiny_form_of_every_preset_is_written_opened_and_run(name: str, tmp_path: Path) -> None:
    config = tiny(name)
    initialise(config, tmp_path / "model", seed=3)
    checkpoint = Checkpoint.open(tmp_path / "model")
    assert checkpoint.config == config
    model = build(checkpoint.config, checkpoint.read)
    assert sum(each.numel() for each in model.parameters()) == parameters(config)
    with torch.no_grad():
        output = model(torch.arange(20).view(2, 10))
    assert output.values.shape == (2, 10, 97)
    assert output.values.isfinite().all()
    assert tuple(output.statistics) == config.moe_layers
    copy_remote_code(config.family, tmp_path)
    sent = {path.name for path in tmp_path.glob("*.py")}
    assert {path.name for path in (tmp_path / "model").glob("*.py")} == sent


def test_weights_are_normal_norms_one_and_biases_zero() -> None:
    options = ["balance_bias=true", "score=sigmoid", "query_key_norm=head", "output_bias=true"]
    sizes = ["hidden_size=320", "heads=3", "kv_heads=3", "expert_size=200"]
    config = override(PRESETS["switch"].config, [*options, *sizes])
    values = {
        tensor.name.removeprefix("model.layers.4."): initial(config, tensor, seed=0)
        for tensor in tensors(config)
        if ".layers.4." in tensor.name and ".experts.1" not in tensor.name
    }
    zeros = {name for name, value in values.items() if not value.any()}
    ones = {name for name, value in values.items() if (value == 1).all()}
    assert zeros == {"mlp.router.balance_bias", "self_attn.o_proj.bias"}
    assert ones == {
        "input_layernorm.weight",
        "post_attention_layernorm.weight",
        "self_attn.q_norm.weight",
        "self_attn.k_norm.weight",
    }
    for name in values.keys() - zeros - ones:
        assert float(values[name].std()) == pytest.approx(0.006, rel=0.05), name
        assert float(values[name].mean()) == pytest.approx(0, abs=5e-4), name


def test_the_seed_and_the_name_decide() -> None:
    config = tiny("deepseek-moe-16b")

    table = {tensor.name: tensor for tensor in tensors(config)}

    def drawn(name: str, seed: int) -> Tensor:
        return initial(config, table[f"model.layers.1.mlp.{name}.weight"], seed)

    one = drawn("experts.0.up_proj", 1)
    assert torch.equal(one, drawn("experts.0.up_proj", 1))
    assert not torch.equal(one, drawn("experts.0.up_proj", 2))
    assert not torch.equal(one, drawn("experts.1.up_proj", 1))


def test_the_type_is_that_asked_for_and_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    config = tiny("deepseek-moe-16b")
    initialise(
        config, tmp_path / "m", 0, torch.bfloat16, lambda done, total: told.append((done, total))
    )
    checkpoint = Checkpoint.open(tmp_path / "m")
    assert checkpoint.dtype == torch.bfloat16
    assert json.loads((tmp_path / "m" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    index = json.loads((tmp_path / "m" / INDEX).read_text())
    size = 2 * parameters(config)
    assert index["metadata"]["total_size"] == size
    assert told[-1] == (size, size)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_the_receipt_tells_preset_seed_and_files(tmp_path: Path) -> None:
    config, to = tiny("deepseek-moe-16b"), tmp_path / "m"
    initialise(config, to, seed=2**70, preset="deepseek-moe-16b")
    table = json.loads((to / RECEIPT).read_text())
    assert (table["preset"], table["seed"], table["dtype"]) == (
        "deepseek-moe-16b",
        2**70,
        "float32",
    )
    assert table["architecture"]["hidden_size"] == 24
    paths = {path for path in to.iterdir() if path.is_file() and path.name != RECEIPT}
    expected = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    assert table["files"] == expected


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    unspoken = override(tiny("deepseek-moe-16b"), ["gate_norm=1.0"])
    with pytest.raises(ConfigError, match="deepseek format cannot say gate_norm"):
        initialise(unspoken, tmp_path / "m", 0)
    petabyte = override(PRESETS["deepseek-moe-145b"].config, ["hidden_size=10_000_000"])
    with pytest.raises(StorageError, match=r"the model takes .* GB but .* GB free; choose another"):
        initialise(petabyte, tmp_path / "new" / "m", 0)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    with pytest.raises(StorageError, match="exists and is not empty"):
        initialise(petabyte, tmp_path / "there", 0)
    assert [path.name for path in tmp_path.rglob("*")] == ["there", "file"]
