"""Directories in few bits: loaded by transformers, read by ours, refused where they are wrong."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from moe.checkpoint.reader import Checkpoint
from moe.config.families import read_config
from moe.config.quantised import FORMS, KEY, form_named, quantises, read_quantised
from moe.config.tensors import tensors
from moe.errors import CheckpointError, ConfigError
from moe.nn.build import build
from moe.surgery.options import UpcycleOptions
from moe.surgery.shrink.compress import compress
from moe.surgery.shrink.merge import Merge
from moe.surgery.shrink.options import CompressOptions
from moe.surgery.upcycle import upcycle
from tests import mixtures, tiny

WIDE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_hidden_layers": 2,
}
NARROW: dict[str, Any] = {"moe_intermediate_size": 32, "shared_expert_intermediate_size": 64}
FAMILIES = {
    "llama": WIDE,
    "mixtral": WIDE,
    "qwen2_moe": WIDE | NARROW,
    "qwen3_moe": WIDE | {"moe_intermediate_size": 32},
}
TOKENS = tiny.tokens(97, 2, 13)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        name: tiny.saved(tiny.model(name, **sizes), folder / name)
        for name, sizes in FAMILIES.items()
    }


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_loads_each_form_and_computes_the_same(
    family: str, form: str, models: dict[str, Path], tmp_path: Path
) -> None:
    to = tmp_path / "few"
    done = compress(models[family], to, CompressOptions(form=form))
    theirs = _loaded(to, form)
    checkpoint = Checkpoint.open(to)
    assert checkpoint.dtype == torch.float32
    with torch.no_grad():
        ours = build(checkpoint.config, checkpoint.read)(TOKENS).values
        expected = theirs(TOKENS).logits.float()
    torch.testing.assert_close(ours, expected, rtol=2e-3, atol=2e-3)
    assert done.distance.relative > 0
    assert done.distance.same_argmax > 0.2


@pytest.mark.parametrize("form", FORMS)
def test_only_matrices_are_quantised_and_slices_are_those_of_the_whole(
    form: str, models: dict[str, Path], tmp_path: Path
) -> None:
    to = tmp_path / "few"
    compress(models["qwen2_moe"], to, CompressOptions(form=form))
    before, after = Checkpoint.open(models["qwen2_moe"]), Checkpoint.open(to)
    for tensor in tensors(after.config):
        value = after.read(tensor)
        if not quantises(tensor.role):
            assert torch.equal(value, before.read(tensor))
            continue
        assert not torch.equal(value, before.read(tensor))
        for dim, size in enumerate(tensor.shape):
            part = tensor.span(dim, size // 3, size - 1)
            assert torch.equal(after.read(part), value.narrow(dim, size // 3, size - 1 - size // 3))


@pytest.mark.parametrize("form", FORMS)
def test_a_quantised_directory_is_taken_where_others_are(
    form: str, models: dict[str, Path], tmp_path: Path
) -> None:
    dense, sparse = tmp_path / "dense", tmp_path / "sparse"
    compress(models["llama"], dense, CompressOptions(form=form))
    receipt = upcycle(dense, tmp_path / "moe", UpcycleOptions(4, 2))
    assert receipt.distance.relative < 1e-4
    compress(models["mixtral"], sparse, CompressOptions(form=form))
    again = compress(sparse, tmp_path / "small", CompressOptions(2, Merge(), form))
    assert again.bytes[1] < again.bytes[0]
    small = Checkpoint.open(tmp_path / "small")
    assert small.config.experts == 2


def test_scales_that_a_loader_shares_are_one(models: dict[str, Path], tmp_path: Path) -> None:
    to = tmp_path / "few"
    compress(models["mixtral"], to, CompressOptions(form="fp8"))
    found = _tensors(to)
    for layer in range(2):
        scale = found[f"model.layers.{layer}.self_attn.q_proj.weight_scale"]
        for part in "kv":
            assert torch.equal(
                scale, found[f"model.layers.{layer}.self_attn.{part}_proj.weight_scale"]
            )
        for expert in range(4):
            prefix = f"model.layers.{layer}.block_sparse_moe.experts.{expert}."
            assert torch.equal(found[f"{prefix}w1.weight_scale"], found[f"{prefix}w3.weight_scale"])
            most = max(found[f"{prefix}w{n}.weight"].float().abs().max() for n in (1, 3))
            assert most == 448.0
    assert found["model.layers.0.self_attn.q_proj.weight"].dtype == torch.float8_e4m3fn
    assert found["model.layers.0.block_sparse_moe.gate.weight"].dtype == torch.float32


def test_the_released_form_of_skywork_is_read(models: dict[str, Path], tmp_path: Path) -> None:
    """quant_method fp8, and scales of q, k and v that differ: rounded again to the largest."""
    to = tmp_path / "few"
    compress(models["mixtral"], to, CompressOptions(form="fp8"))
    table = json.loads((to / "config.json").read_text())
    table[KEY] = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    (to / "config.json").write_text(json.dumps(table))
    found = _tensors(to)
    name = "model.layers.1.self_attn.k_proj.weight"
    scale = found[f"{name}_scale"]
    found[f"{name}_scale"] = (scale / 3).view(())
    _save(to, found)
    exact = found[name].float() * (scale / 3)
    tensor = next(t for t in tensors(Checkpoint.open(to).config) if t.name == name)
    value = Checkpoint.open(to).read(tensor)
    again = (exact / scale).to(torch.float8_e4m3fn).float() * scale
    assert torch.equal(value, again)
    assert not torch.equal(value, exact)


@pytest.mark.parametrize(
    ("form", "name", "change", "message"),
    [
        ("int8", "q_proj.weight_scale", lambda x: x * float("nan"), "is nan; scales are finite"),
        ("int8", "q_proj.weight_scale", lambda x: -x, "scales are finite and above 0"),
        ("int8", "q_proj.weight_scale", lambda x: x[:-1], "has scales of shape"),
        ("int8", "q_proj.weight_packed", lambda x: x[:, :-1], "words of 4"),
        ("int4", "q_proj.weight_scale", lambda x: x[:, :1], "has scales of shape"),
        ("fp8-blocks", "q_proj.weight_scale_inv", lambda x: x.repeat(2, 1), "has scales of shape"),
        ("fp8", "experts.1.w1.weight_scale", lambda x: 2 * x, "quantise them with one scale"),
        ("fp8", "o_proj.weight_scale", lambda x: 0 * x, "is 0; scales are finite and above 0"),
        ("fp8", "o_proj.weight_scale", None, "lacks 1 tensors|is F8_E4M3"),
        ("fp8", "o_proj.weight", lambda x: x.float(), "is not torch.float8_e4m3fn"),
    ],
)
def test_wrong_scales_are_refused(
    form: str, name: str, change: Any, message: str, models: dict[str, Path], tmp_path: Path
) -> None:
    to = tmp_path / "few"
    compress(models["mixtral"], to, CompressOptions(form=form))
    found = _tensors(to)
    full = next(key for key in found if key.endswith(name))
    if change is None:
        del found[full]
    else:
        found[full] = change(found[full]).contiguous()
    _save(to, found)
    with pytest.raises(CheckpointError, match=message):
        _built(to)


def test_other_forms_are_refused_by_name() -> None:
    table = json.loads(json.dumps(transformers.LlamaConfig().to_dict()))
    for changed in (
        {"quant_method": "awq", "bits": 4},
        {"quant_method": "fp8", "activation_scheme": "static"},
        {"quant_method": "fp8", "activation_scheme": "dynamic", "scale_fmt": "ue8m0"},
        {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"},
    ):
        with pytest.raises(ConfigError, match="that raymoe does not read"):
            read_config(table | {KEY: changed})
    assert read_quantised({KEY: {"quant_method": "fp8", "activation_scheme": "dynamic"}})


def test_groups_fit_the_model_or_it_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    assert form_named("int4", Checkpoint.open(models["llama"]).config).group == 32
    odd = Checkpoint.open(mixtures.made("deepseek", tmp_path / "odd")).config
    with pytest.raises(ConfigError, match="divide into groups of 16, this model has 12, 24, 40"):
        form_named("int4", odd)
    with pytest.raises(ConfigError, match="no form 'int2'; choose int8, int4, fp8, fp8-blocks"):
        form_named("int2", odd)


def _built(directory: Path) -> None:
    checkpoint = Checkpoint.open(directory)
    build(checkpoint.config, checkpoint.read)


def _loaded(directory: Path, form: str) -> Any:
    """Load with transformers, dequantised: a CPU multiplies no numbers of 8 bits."""
    kind: Any = (
        transformers.FineGrainedFP8Config(dequantize=True)
        if form == "fp8-blocks"
        else transformers.CompressedTensorsConfig(dequantize=True)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it also reads the directory's own
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            directory, quantization_config=kind, dtype=torch.float32, output_loading_info=True
        )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    return model


def _tensors(directory: Path) -> dict[str, torch.Tensor]:
    (file,) = directory.glob("*.safetensors")
    return load_file(file)


def _save(directory: Path, found: dict[str, torch.Tensor]) -> None:
    (file,) = directory.glob("*.safetensors")
    (directory / "model.safetensors.index.json").unlink()
    file.unlink()
    save_file(found, directory / "model.safetensors", {"format": "pt"})
