"""Adapters that raymoe cannot serve are refused, with what was found and what to change."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from moe.checkpoint.adapters.files import WEIGHTS, AdapterFiles
from moe.checkpoint.adapters.settings import NAME, Settings, read_settings
from moe.checkpoint.reader import Checkpoint
from moe.config.adapters import groups, inputs, outputs
from moe.config.model import ModelConfig
from moe.config.share import whole
from moe.errors import CheckpointError
from tests import lora, runs, tiny

AT = "base_model.model.model.layers.0."


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.saved(tiny.mixtral(), tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def config(model: Path) -> ModelConfig:
    return Checkpoint.open(model).config


@pytest.fixture
def made(model: Path, tmp_path: Path) -> Path:
    modules = [*lora.ATTENTION, "w1", "w2", "w3"]
    return lora.adapter(model, tmp_path / "adapter", target_modules=modules)


def change(directory: Path, **settings: Any) -> None:
    path = directory / NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def rewrite(directory: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(directory / WEIGHTS)
    change(tensors)
    save_file({name: each.contiguous() for name, each in tensors.items()}, directory / WEIGHTS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_dora": True}, r"use_dora = True is not supported; merge the adapter into the model"),
        ({"bias": "lora_only"}, "bias = 'lora_only' is not supported"),
        ({"lora_bias": True}, "lora_bias = True is not supported"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save = \['lm_head'\] .* all requests"),
        ({"trainable_token_indices": [3]}, "replace rows of the embedding"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa' .* plain adapter"),
        ({"layer_replication": [[0, 2]]}, r"layer_replication = \[\[0, 2\]\] is not supported"),
        ({"alora_invocation_tokens": [7]}, "alora_invocation_tokens"),
        ({"of_the_future": {"x": 1}}, r"of_the_future = \{'x': 1\} is not supported"),
        ({"task_type": "SEQ_CLS"}, "it does not generate text"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; raymoe serves LORA adapters"),
        ({"r": "many"}, "no r and lora_alpha"),
        ({"r": 0}, "a rank below 1"),
        ({"rank_pattern": {"(": 2}}, "patterns of them, that can be read"),
        ({"r": 5}, r"q_proj.lora_A.weight has shape \(4, 24\); .* ask for \(5, 24\)"),
    ],
)
def test_settings(made: Path, config: ModelConfig, settings: dict[str, Any], message: str) -> None:
    change(made, **settings)
    with pytest.raises(CheckpointError, match=message):
        AdapterFiles(made, config)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("self_attn.q_proj.lora_magnitude_vector", "layers.0.self_attn.q_proj.lora_magnitude"),
        ("input_layernorm.lora_A.weight", r"adds nothing to.*: model.layers.0.input_layernorm"),
        ("mlp.experts.9.w1.lora_A.weight", "mlp.experts.9.w1"),
    ],
)
def test_tensors_without_a_place(made: Path, config: ModelConfig, name: str, message: str) -> None:
    rewrite(made, lambda tensors: tensors.update({AT + name: torch.zeros(4, 24)}))
    with pytest.raises(CheckpointError, match=message):
        AdapterFiles(made, config)


def test_numbers_of_another_kind(made: Path, config: ModelConfig) -> None:
    name = AT + "self_attn.q_proj.lora_A.weight"
    rewrite(made, lambda tensors: tensors.update({name: tensors[name].double()}))
    with pytest.raises(CheckpointError, match=r"q_proj.lora_A.weight .* is F64; raymoe reads F32"):
        AdapterFiles(made, config)


def test_a_half_and_a_stack_of_another_size(made: Path, config: ModelConfig) -> None:
    rewrite(made, lambda tensors: tensors.pop(AT + "self_attn.q_proj.lora_B.weight"))
    with pytest.raises(CheckpointError, match=r"q_proj.lora_B.weight is missing; .*\(48, 4\)"):
        AdapterFiles(made, config)
    rewrite(made, lambda tensors: tensors.pop(AT + "self_attn.q_proj.lora_A.weight"))
    down = AT + "mlp.experts.lora_A.weight"
    rewrite(made, lambda tensors: tensors.update({down: torch.zeros(12, 40)}))
    with pytest.raises(CheckpointError, match=r"mlp.experts.lora_A.weight, .*lora_B.weight; it"):
        AdapterFiles(made, config)


def test_what_is_no_adapter(made: Path, model: Path, config: ModelConfig) -> None:
    with pytest.raises(CheckpointError, match=r"is no adapter: it has no adapter_config\.json"):
        AdapterFiles(model, config)
    (made / WEIGHTS).rename(made / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"adapter_model.bin, which can run any code"):
        AdapterFiles(made, config)
    (made / "adapter_model.bin").unlink()
    with pytest.raises(CheckpointError, match=f"has no {WEIGHTS}"):
        AdapterFiles(made, config)
    save_file({}, made / WEIGHTS)
    with pytest.raises(CheckpointError, match="has no tensors"):
        AdapterFiles(made, config)


def test_the_digest_is_that_of_weights_and_settings(made: Path, config: ModelConfig) -> None:
    first = AdapterFiles(made, config).digest()
    assert AdapterFiles(made, config).digest() == first
    change(made, lora_alpha=12)
    second = AdapterFiles(made, config).digest()
    rewrite(made, lambda tensors: tensors[AT + "self_attn.q_proj.lora_B.weight"].mul_(2))
    assert len({first, second, AdapterFiles(made, config).digest()}) == 3


def test_scales(made: Path) -> None:
    change(made, use_rslora=True, rank_pattern={"q_proj": 9}, alpha_pattern={"layers.1.*": 2})
    settings = read_settings(made)
    assert settings.rank_of("model.layers.0.self_attn.q_proj") == 9
    assert settings.scale_of("model.layers.0.self_attn.q_proj") == 6 / 3
    assert settings.scale_of("model.layers.1.self_attn.k_proj") == 2 / 2
    assert Settings(4, 6.0).scale_of("model.layers.0.self_attn.qq_proj") == 1.5


def test_shares_of_a_gang_cut_what_the_model_cuts(made: Path, config: ModelConfig) -> None:
    """Parts of A side by side, or of B one above the other, are those of the whole."""
    files = AdapterFiles(made, config)
    full = {group[0].name: files.read(group) for group in groups(config, whole(config))}
    plan = runs.plan(config, (3,), (2, 1), (3, 1))
    seen = set()
    for seat in plan.seats:
        for group in groups(config, plan.share(seat)):
            found, expected = files.read(group), full[group[0].name]
            if expected is None:
                assert found is None
                continue
            assert found is not None
            assert (found[0].shape[1], found[1].shape[0]) == (inputs(group), outputs(group))
            seen.add(group[0].name)
    assert seen == {name for name, found in full.items() if found is not None}
    first, second = (
        {g[0].name: files.read(g) for g in groups(config, plan.share(s))} for s in plan.seats
    )
    name = "model.layers.1.self_attn.o_proj.weight"
    both = torch.cat([first[name][0], second[name][0]], dim=1)  # type: ignore[index]
    assert torch.equal(both, full[name][0])  # type: ignore[index]
