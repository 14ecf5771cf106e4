"""The code that travels with a directory: transformers computes our logits with it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.checkpoint.names import disk_name
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.remote import copy_remote_code
from moe.checkpoint.remote_code.configuration_deepseek import DeepseekConfig
from moe.checkpoint.remote_code.configuration_skywork_moe import SkyworkMoeConfig
from moe.checkpoint.remote_code.modeling_deepseek import DeepseekForCausalLM
from moe.checkpoint.remote_code.modeling_raymoe import RaymoeForCausalLM
from moe.checkpoint.remote_code.modeling_skywork import SkyworkForCausalLM
from moe.checkpoint.remote_code.modeling_skywork_moe import SkyworkForCausalLM as SkyworkMoe
from moe.config.families import read_config, write_config
from moe.config.model import ModelConfig, MoeConfig, RopeScaling
from moe.nn.build import build
from moe.nn.decoder import Decoder, Pass, SequenceCache
from tests import architectures, tiny
from tests.examples import examples
from tests.exports import export

CLASSES: dict[str, Any] = {
    "skywork": SkyworkForCausalLM,
    "skywork_moe": SkyworkMoe,
    "deepseek": DeepseekForCausalLM,
    "raymoe": RaymoeForCausalLM,
}
INPUTS = tiny.tokens(20, 2, 11)
NEW_TOKENS = 5
ALONE = """
import sys, torch, transformers
from pathlib import Path
for path in map(Path, sys.argv[1:]):
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        path, trust_remote_code=True, output_loading_info=True
    )
    assert not any(report.values()), (path, report)
    inputs, logits = torch.load(path / "expected.pt")
    with torch.no_grad():
        apart = (model(inputs).logits - logits).abs().max() / logits.abs().max()
    assert apart <= 1e-5, (path, apart)
"""
SIZES: dict[str, Any] = {
    "vocab_size": 20,
    "hidden_size": 12,
    "layers": 3,
    "heads": 4,
    "kv_heads": 2,
    "head_size": 4,
    "ffn_size": 9,
    "norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_positions": 64,
    "tie_embeddings": False,
}
ONE_OF_EACH = [
    ModelConfig("skywork", **SIZES),
    ModelConfig("skywork_moe", **SIZES, moe=MoeConfig(4, 2, 9, gate_norm=1.0)),
    ModelConfig(
        "deepseek",
        **SIZES,
        moe=MoeConfig(6, 3, 5, renormalise=False, dense_layers=(0,), shared_size=10),
    ),
    ModelConfig("raymoe", **SIZES, moe=MoeConfig(4, 1, 5, hashed=True, dense_layers=(1,))),
    ModelConfig(
        "raymoe",
        **SIZES,
        attention_bias=True,
        mlp_bias=True,
        query_key_norm="all",
        sliding_window=4,
        rope_scaling=RopeScaling("linear", 2.0),
        moe=MoeConfig(
            *(8, 3, 5),
            score="sigmoid",
            scale=2.5,
            balance_bias=True,
            groups=4,
            top_groups=2,
            dense_layers=(0, 2),
            shared_size=7,
            shared_gate=True,
        ),
    ),
]

MERGED = ModelConfig("raymoe", **SIZES, moe=MoeConfig(4, 1, 9, segment_tokens=3, dense_layers=(1,)))


def ours(path: Path) -> Decoder:
    checkpoint = Checkpoint.open(path)
    return build(checkpoint.config, checkpoint.read)


def our_logits(path: Path, tokens: torch.Tensor = INPUTS) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = ours(path)(tokens).values
    return logits


def loaded(path: Path, family: str) -> Any:
    model, report = CLASSES[family].from_pretrained(path, output_loading_info=True)
    assert not any(report.values()), report
    if family == "skywork_moe":  # rows of tiny models are too short for grouped_mm
        model.set_experts_implementation("eager")
    return model.eval()


def their_logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(INPUTS).logits
    return logits


def assert_alike(theirs: torch.Tensor, expected: torch.Tensor) -> None:
    assert (theirs - expected).abs().max() <= 2e-5 * expected.abs().max() + 1e-6


@pytest.mark.parametrize("family", CLASSES)
@settings(max_examples=examples(25), derandomize=True)
@given(data=st.data())
def test_it_computes_our_logits(
    family: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = data.draw(architectures.FAMILIES[family])
    path = export(config, tmp_path_factory.mktemp(family), data.draw(st.integers(0, 99)))
    assert_alike(their_logits(loaded(path, family)), our_logits(path))


@pytest.mark.parametrize("config", ONE_OF_EACH)
def test_it_generates_with_a_cache_what_we_do_without(config: ModelConfig, tmp_path: Path) -> None:
    path = export(config, tmp_path)
    model, decoder = loaded(path, config.family), ours(path)
    tokens = INPUTS
    for _ in range(NEW_TOKENS):
        with torch.no_grad():
            best = decoder(tokens).values[:, -1].argmax(dim=-1)
        tokens = torch.cat((tokens, best[:, None]), dim=1)
    mask = torch.ones_like(INPUTS)
    generated = model.generate(
        INPUTS, attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0
    )
    assert torch.equal(generated, tokens)


@pytest.mark.parametrize("config", [*ONE_OF_EACH, MERGED])
def test_what_transformers_saves_is_the_same_model(config: ModelConfig, tmp_path: Path) -> None:
    path = export(config, tmp_path / "first")
    loaded(path, config.family).save_pretrained(tmp_path / "again")
    assert Checkpoint.open(tmp_path / "again").config == config
    assert torch.equal(our_logits(tmp_path / "again"), our_logits(path))


@pytest.mark.parametrize(
    "config", [*(c for c in ONE_OF_EACH if c.family in ("raymoe", "deepseek")), MERGED]
)
def test_it_trains_as_we_do(config: ModelConfig, tmp_path: Path) -> None:
    path = export(config, tmp_path)
    model, decoder = loaded(path, config.family).train(), ours(path)
    model.activation_checkpointing_enable()
    for logits in (model(INPUTS).logits, decoder(INPUTS).values):
        logits.log_softmax(dim=-1)[..., 0].sum().backward()
    theirs = dict(model.named_parameters())
    for name, parameter in decoder.named_parameters():
        if parameter.grad is not None:
            assert_alike(theirs[disk_name(config.family, name)].grad, parameter.grad)


def test_outputs_that_transformers_offers_are_there(tmp_path: Path) -> None:
    model = loaded(export(ONE_OF_EACH[-1], tmp_path), "raymoe")
    model.set_attn_implementation("eager")
    output = model(INPUTS, output_hidden_states=True, output_attentions=True)
    assert len(output.hidden_states) == SIZES["layers"] + 1
    assert [a.shape for a in output.attentions] == [(2, 4, 11, 11)] * SIZES["layers"]
    assert_alike(output.logits, our_logits(tmp_path))


def test_half_the_precision_leaves_the_choice_of_experts_exact(tmp_path: Path) -> None:
    """Steps of the bias are smaller than bfloat16 can tell apart."""
    path = export(ONE_OF_EACH[-1], tmp_path)
    model = RaymoeForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()
    gate = model.model.layers[1].mlp.gate
    assert (gate.weight.dtype, gate.e_score_correction_bias.dtype) == (torch.bfloat16, torch.float)
    weights, _ = gate(torch.randn(3, SIZES["hidden_size"], dtype=torch.bfloat16))
    assert weights.dtype == torch.float
    assert their_logits(model).isfinite().all()


def test_a_random_model_is_whole() -> None:
    model = DeepseekForCausalLM(DeepseekConfig(**(tiny.SMALL | {"n_routed_experts": 8})))
    assert model(tiny.tokens(97, 1, 5)).logits.isfinite().all()


@pytest.mark.parametrize("prompt", [3, 11])
def test_merged_experts_generate_what_we_do_with_a_cache(prompt: int, tmp_path: Path) -> None:
    """What comes after a prompt is routed once, by its mean: a cache is needed on both sides."""
    path = export(MERGED, tmp_path)
    given = INPUTS[:, :prompt]
    generated = loaded(path, "raymoe").generate(
        given,
        attention_mask=torch.ones_like(given),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=0,
    )
    decoder, found = ours(path), []
    for row in given:
        cache, tokens = SequenceCache(decoder.share), row[None]
        new = tokens
        for _ in range(NEW_TOKENS):
            with torch.no_grad():
                best = decoder(new, Pass(cache=cache)).values[:, -1].argmax(dim=-1)
            new = best[:, None]
            tokens = torch.cat((tokens, new), dim=1)
        found.append(tokens)
    assert torch.equal(generated, torch.cat(found))


def test_merged_experts_take_no_padding(tmp_path: Path) -> None:
    model = loaded(export(MERGED, tmp_path), "raymoe")
    mask = torch.ones_like(INPUTS)
    mask[0, :2] = 0
    with pytest.raises(ValueError, match="give sequences of one length, without padding"):
        model(INPUTS, attention_mask=mask)


def test_a_hash_needs_token_numbers(tmp_path: Path) -> None:
    model = loaded(export(ONE_OF_EACH[3], tmp_path), "raymoe")
    with pytest.raises(ValueError, match="give input_ids, not inputs_embeds"):
        model(inputs_embeds=torch.zeros(1, 3, SIZES["hidden_size"]))


def test_the_norm_is_felt(tmp_path: Path) -> None:
    path = export(ONE_OF_EACH[1], tmp_path)
    model = loaded(path, "skywork_moe")
    for layer in model.model.layers:
        layer.mlp.gate.norm = None
    assert (their_logits(model) - our_logits(path)).abs().max() > 1e-2


def test_any_process_loads_the_directories_by_itself(tmp_path: Path) -> None:
    paths = [export(config, tmp_path / str(n)) for n, config in enumerate(ONE_OF_EACH)]
    for path in paths:
        torch.save((INPUTS, our_logits(path)), path / "expected.pt")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *map(str, paths)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_released_skywork_moe_is_understood() -> None:
    """It has no top-k and its experts as a list."""
    config = SkyworkMoeConfig(num_experts=[16], moe_use_logits_norm=True, hidden_size=64)
    ours = read_config(config.to_dict())
    assert ours.moe == MoeConfig(16, 2, config.intermediate_size, 1.0)


@pytest.mark.parametrize("family", CLASSES)
def test_every_file_the_config_names_is_copied(family: str, tmp_path: Path) -> None:
    (config, *_) = [config for config in ONE_OF_EACH if config.family == family]
    copy_remote_code(family, tmp_path)
    for target in write_config(config, "float32")["auto_map"].values():
        module, name = target.split(".")
        assert f"class {name}(" in (tmp_path / f"{module}.py").read_text()


def test_the_class_named_is_the_one_in_the_file() -> None:
    for config in ONE_OF_EACH:
        assert write_config(config, "float32")["architectures"] == [CLASSES[config.family].__name__]


@pytest.mark.parametrize("family", ["llama", "mixtral", "qwen3_moe"])
def test_other_families_carry_no_code(family: str, tmp_path: Path) -> None:
    copy_remote_code(family, tmp_path)
    assert list(tmp_path.iterdir()) == []
