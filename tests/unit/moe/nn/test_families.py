"""Every family that transformers knows: our decoder computes its model, and it computes ours."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.weight_files import INDEX
from moe.checkpoint.writer import ShardWriter, TensorSpec, write_index, write_json
from moe.config.families import write_config
from moe.config.model import ModelConfig
from moe.config.share import whole
from moe.nn.build import build
from moe.nn.decoder import Pass, SequenceCache
from tests import exports, parity, tiny
from tests.examples import examples

FILE = "model-00001-of-00001.safetensors"
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
ROPES = st.sampled_from(
    [
        {"rope_type": "default", "rope_theta": 10000.0},
        {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0},
        {"rope_type": "llama3", "rope_theta": 1000.0, "original_max_position_embeddings": 32}
        | LLAMA3,
    ]
)
FLAGS = {
    "llama": ("attention_bias", "mlp_bias"),
    "qwen3": ("attention_bias",),
    "olmoe": ("attention_bias", "norm_topk_prob"),
    "qwen2_moe": ("qkv_bias", "norm_topk_prob"),
    "qwen3_moe": ("attention_bias", "norm_topk_prob"),
}
MOE_FAMILIES = ("mixtral", "olmoe", "qwen2_moe", "qwen3_moe")


@st.composite
def shapes(draw: st.DrawFn, family: str) -> dict[str, Any]:
    """Draw the keys of a small model of a family."""
    kv_heads, layers = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    heads, size = kv_heads * draw(st.integers(1, 3)), draw(st.sampled_from([4, 6]))
    table = {
        "hidden_size": heads * size,
        "intermediate_size": draw(st.sampled_from([16, 33])),
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "num_attention_heads": heads,
        "head_dim": size if family == "olmoe" else draw(st.sampled_from([4, 6, 10])),
        "tie_word_embeddings": draw(st.booleans()),
        "rope_parameters": draw(ROPES),
    }
    table |= {flag: draw(st.booleans()) for flag in FLAGS.get(family, ())}
    if family in ("mistral", "mixtral"):
        table["sliding_window"] = draw(st.sampled_from([None, 1, 4, 64]))
    if family in MOE_FAMILIES:
        table |= draw(experts(family, layers))
    return table


@st.composite
def experts(draw: st.DrawFn, family: str, layers: int) -> dict[str, Any]:
    """Draw the keys of the experts, and where there may be none."""
    number = draw(st.integers(1, 5))
    name = "num_local_experts" if family == "mixtral" else "num_experts"
    table: dict[str, Any] = {name: number, "num_experts_per_tok": draw(st.integers(1, number))}
    if family in ("qwen2_moe", "qwen3_moe"):
        table["moe_intermediate_size"] = draw(st.sampled_from([8, 11]))
        dense = draw(st.sets(st.integers(0, layers - 1), max_size=layers - 1))
        table["mlp_only_layers"] = sorted(dense)
    if family == "qwen2_moe":
        table["shared_expert_intermediate_size"] = draw(st.sampled_from([5, 24]))
    return table


@pytest.mark.parametrize("family", tiny.OF_FAMILY)
@settings(max_examples=examples(25))
@given(data=st.data())
def test_we_compute_what_transformers_computes(
    family: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = tiny.model(family, **data.draw(shapes(family)))
    checkpoint = Checkpoint.open(tiny.saved(model, tmp_path_factory.mktemp(family)))
    assert checkpoint.config.family == family
    decoder = build(checkpoint.config, checkpoint.read)
    if data.draw(st.booleans(), "in float32 first"):
        parity.check_parity(decoder, model, torch.float32)
    parity.check_parity(decoder, model)


@pytest.mark.parametrize("family", tiny.OF_FAMILY)
@settings(max_examples=examples(8))
@given(data=st.data())
def test_transformers_computes_what_we_wrote(
    family: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    made = tiny.model(family, **data.draw(shapes(family)))
    source = Checkpoint.open(tiny.saved(made, tmp_path_factory.mktemp("source")))
    path = tmp_path_factory.mktemp("written")
    write(source.config, path)
    model, found = transformers.AutoModelForCausalLM.from_pretrained(
        path, output_loading_info=True, attn_implementation="eager", experts_implementation="eager"
    )
    assert {key: value for key, value in found.items() if value} == {}
    checkpoint = Checkpoint.open(path)
    assert checkpoint.config == source.config
    parity.check_logits(build(checkpoint.config, checkpoint.read), model.eval())


@pytest.mark.parametrize("family", tiny.OF_FAMILY)
def test_a_cache_changes_no_logits(family: str, tmp_path: Path) -> None:
    windowed = family in ("mistral", "mixtral")
    model = tiny.model(family, **({"sliding_window": 4} if windowed else {}))
    checkpoint = Checkpoint.open(tiny.saved(model, tmp_path))
    decoder = build(checkpoint.config, checkpoint.read)
    inputs = tiny.tokens(97, 1, 13)
    cache = SequenceCache(whole(checkpoint.config))
    with torch.no_grad():
        passes = [
            decoder(piece, Pass(cache=cache)).values for piece in inputs.split([6, 1, 1, 5], dim=1)
        ]
        assert parity.close(torch.cat(passes, dim=1), model(inputs).logits)


def write(config: ModelConfig, path: Path) -> None:
    """Write a directory of random weights as our conversions write one."""
    made = exports.random_tensors(config, seed=5)
    specs = [TensorSpec(name, tensor.shape, torch.float32) for name, tensor in made.items()]
    with ShardWriter(path / FILE, specs) as writer:
        for name, tensor in made.items():
            writer.write(name, tensor)
    write_index(path, INDEX, {FILE: specs})
    write_json(path / "config.json", write_config(config, "float32"))
