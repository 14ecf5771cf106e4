from pathlib import Path

import gguf
import numpy as np
import pytest
from tokenizers import pre_tokenizers

from moe.config.tensors import tensors
from moe.errors import CheckpointError
from pipelines.fetching.llama_gguf import LlamaGguf

HIDDEN, LAYERS, HEADS, KV_HEADS, FFN = 96, 2, 6, 2, 64
FILE_NAMES = {
    "embed_tokens": "token_embd",
    "input_layernorm": "attn_norm",
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
    "norm": "output_norm",
}


def write_gguf(path: Path, leave_out: str = "") -> dict[str, np.ndarray]:
    """Write a random model as llama.cpp's converter does; return it as Hugging Face has it."""
    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|end|>", *characters, "ab"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(100000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL, *[gguf.TokenType.NORMAL] * (len(tokens) - 1)])
    writer.add_token_merges(["a b"])
    for add in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_pad_token_id):
        add(0)
    random = np.random.default_rng(0)
    written = {}
    for name, shape in shapes(len(tokens)).items():
        values = random.standard_normal(shape, dtype=np.float32)
        written[name] = values
        words = name.split(".")
        file_name = f"{FILE_NAMES[words[-2]]}.weight"
        if words[1] == "layers":
            file_name = f"blk.{words[2]}.{file_name}"
        if file_name != leave_out:
            heads = {"q_proj": HEADS, "k_proj": KV_HEADS}.get(words[-2])
            if heads:  # llama.cpp puts the halves of each rotary pair side by side
                halves = values.reshape(heads, 2, -1, HIDDEN)
                values = np.stack([halves[:, 0], halves[:, 1]], axis=2).reshape(shape)
            writer.add_tensor(file_name, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return written


def shapes(vocab_size: int) -> dict[str, tuple[int, ...]]:
    result: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab_size, HIDDEN)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        key = KV_HEADS * HIDDEN // HEADS
        result[f"{prefix}.input_layernorm.weight"] = (HIDDEN,)
        result[f"{prefix}.self_attn.q_proj.weight"] = (HIDDEN, HIDDEN)
        result[f"{prefix}.self_attn.k_proj.weight"] = (key, HIDDEN)
        result[f"{prefix}.self_attn.v_proj.weight"] = (key, HIDDEN)
        result[f"{prefix}.self_attn.o_proj.weight"] = (HIDDEN, HIDDEN)
        result[f"{prefix}.post_attention_layernorm.weight"] = (HIDDEN,)
        result[f"{prefix}.mlp.gate_proj.weight"] = (FFN, HIDDEN)
        result[f"{prefix}.mlp.up_proj.weight"] = (FFN, HIDDEN)
        result[f"{prefix}.mlp.down_proj.weight"] = (HIDDEN, FFN)
    result["model.norm.weight"] = (HIDDEN,)
    return result


def test_weights_come_back_as_they_were(tmp_path: Path) -> None:
    written = write_gguf(tmp_path / "model.gguf")
    source = LlamaGguf(tmp_path / "model.gguf")
    found = dict(source.weights())
    assert found.keys() == written.keys()
    for name, values in written.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert [tensor.name for tensor in tensors(source.architecture())] == list(written)


def test_architecture(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf")
    config = LlamaGguf(tmp_path / "model.gguf").architecture()
    assert (config.layers, config.heads, config.kv_heads, config.head_size) == (2, 6, 2, 16)
    assert (config.norm_eps, config.rope_theta, config.tie_embeddings) == (1e-5, 1e5, True)


def test_tokenizer_splits_digits_and_merges(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf")
    tokenizer = LlamaGguf(tmp_path / "model.gguf").tokenizer()
    assert tokenizer.encode("ab12<|end|>").tokens == ["ab", "1", "2", "<|end|>"]
    assert tokenizer.decode(tokenizer.encode("Zoë  12\n").ids) == "Zoë  12\n"


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", leave_out="blk.1.ffn_up.weight")
    with pytest.raises(CheckpointError, match=r"lacks 1 tensors, first model\.layers\.1\.mlp\.up"):
        dict(LlamaGguf(tmp_path / "model.gguf").weights())


@pytest.mark.parametrize("content", [b"", b"not a model at all, but some bytes"])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(CheckpointError, match="is not a readable GGUF file"):
        LlamaGguf(tmp_path / "model.gguf")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf")
    whole = (tmp_path / "model.gguf").read_bytes()
    for size in (len(whole) - 100, 2000, 200):
        (tmp_path / "model.gguf").write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="is not a readable GGUF file"):
            LlamaGguf(tmp_path / "model.gguf")
