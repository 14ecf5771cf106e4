"""A Mixtral directory as one GGUF file for llama.cpp, in f16 or q8_0.

Norms and routers stay in float32. llama.cpp wants the two halves of each rotary pair of query and
key rows side by side, and the experts of a layer as one tensor. The tokenizer must be that of
SmolLM2, a byte-level BPE whose pre-tokenizer llama.cpp knows by name.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch
from gguf import GGMLQuantizationType, LlamaFileType

from moe.checkpoint.reader import Checkpoint
from moe.config.model import ModelConfig, MoeConfig
from moe.config.tensors import EMBEDDING, FINAL_NORM, HEAD, layer_prefix, tensors
from moe.errors import CheckpointError

Array = npt.NDArray[np.float32]

TYPES = {
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
OUTER = {EMBEDDING: "token_embd.weight", FINAL_NORM: "output_norm.weight", HEAD: "output.weight"}
ATTENTION = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
}
EXPERT = {"gate_proj": "ffn_gate_exps", "up_proj": "ffn_up_exps", "down_proj": "ffn_down_exps"}


def write_gguf(model: Path, to: Path, weights: str) -> None:
    """Write a model directory as a GGUF file whose products are of the type ``weights``."""
    checkpoint = Checkpoint.open(model)
    config = checkpoint.config
    if config.family != "mixtral" or config.moe is None:
        raise CheckpointError(f"{model} is of the family {config.family}; only mixtral is written")
    kind, file_type = TYPES[weights]
    writer = gguf.GGUFWriter(to, "llama", use_temp_file=False)
    _describe(writer, config, config.moe, file_type)
    _tokens(writer, model, config)
    for name, values in _weights(checkpoint, config, config.moe):
        plain = values.ndim == 1 or "ffn_gate_inp" in name
        if plain:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(
    writer: gguf.GGUFWriter, config: ModelConfig, moe: MoeConfig, file_type: LlamaFileType
) -> None:
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_positions)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(moe.expert_size)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_size)
    writer.add_value_length(config.head_size)
    writer.add_rope_dimension_count(config.head_size)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_expert_count(moe.experts)
    writer.add_expert_used_count(moe.top_k)


def _tokens(writer: gguf.GGUFWriter, model: Path, config: ModelConfig) -> None:
    """Write the vocabulary, the merges and the special tokens of ``tokenizer.json``."""
    table: dict[str, Any] = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    added = {each["content"]: each for each in table["added_tokens"]}
    vocabulary = table["model"]["vocab"] | {name: each["id"] for name, each in added.items()}
    names = sorted(vocabulary, key=vocabulary.__getitem__)
    kinds = [gguf.TokenType.CONTROL if name in added else gguf.TokenType.NORMAL for name in names]
    merges = [
        each if isinstance(each, str) else " ".join(each) for each in table["model"]["merges"]
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(names)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    if config.bos_token_id is not None:
        writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_ids[0])
    writer.add_add_bos_token(False)
    template = model / "chat_template.jinja"
    if template.is_file():
        writer.add_chat_template(template.read_text(encoding="utf-8"))


def _weights(
    checkpoint: Checkpoint, config: ModelConfig, moe: MoeConfig
) -> Iterator[tuple[str, Array]]:
    read = {tensor.name: tensor for tensor in tensors(config)}

    def values(name: str) -> Array:
        found: Array = checkpoint.read(read[name]).to(torch.float32).numpy()
        return found

    for name, theirs in OUTER.items():
        if name in read:
            yield theirs, values(name)
    for layer in range(config.layers):
        ours, theirs = layer_prefix(layer), f"blk.{layer}."
        for part, name in ATTENTION.items():
            heads = {"attn_q": config.heads, "attn_k": config.kv_heads}.get(name)
            found = values(f"{ours}{part}.weight")
            yield f"{theirs}{name}.weight", found if heads is None else _joined(found, heads)
        yield f"{theirs}ffn_gate_inp.weight", values(f"{ours}mlp.router.weight")
        for part, name in EXPERT.items():
            each = [
                values(f"{ours}mlp.experts.{number}.{part}.weight") for number in range(moe.experts)
            ]
            yield f"{theirs}{name}.weight", np.stack(each)


def _joined(values: Array, heads: int) -> Array:
    """Reorder rows from (head, half, pair) to (head, pair, half)."""
    pairs = values.shape[0] // heads // 2
    ordered = values.reshape(heads, 2, pairs, *values.shape[1:]).swapaxes(1, 2)
    return np.ascontiguousarray(ordered.reshape(values.shape))
