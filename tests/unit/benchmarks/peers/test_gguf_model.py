"""A Mixtral as GGUF: every tensor where llama.cpp looks for it, and the tokens with their kinds."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import transformers

from benchmarks.peers.gguf_model import write_gguf
from moe.errors import CheckpointError
from tests import tiny, vocabularies

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "head_dim": 16}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    vocabulary = vocabularies.byte_level()
    made = tiny.mixtral(vocab_size=vocabulary.get_vocab_size(), **SIZES)
    folder = tiny.saved(made, tmp_path_factory.mktemp("model"))
    return vocabularies.save(vocabulary, folder)


@pytest.mark.parametrize(("weights", "error"), [("f16", 1e-3), ("q8_0", 1e-2)])
def test_weights_are_those_of_the_model(
    model: Path, weights: str, error: float, tmp_path: Path
) -> None:
    write_gguf(model, tmp_path / "model.gguf", weights)
    read = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    theirs = transformers.AutoModelForCausalLM.from_pretrained(model).state_dict()

    def check(name: str, wanted: np.ndarray) -> None:
        tensor = read.pop(name)
        found = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).max() <= error * np.abs(wanted).max()

    def at(name: str) -> np.ndarray:
        return np.asarray(theirs[name].numpy())

    check("token_embd.weight", at("model.embed_tokens.weight"))
    check("output_norm.weight", at("model.norm.weight"))
    for layer in range(3):
        ours, prefix = f"blk.{layer}.", f"model.layers.{layer}."
        check(f"{ours}attn_norm.weight", at(f"{prefix}input_layernorm.weight"))
        check(f"{ours}ffn_norm.weight", at(f"{prefix}post_attention_layernorm.weight"))
        check(f"{ours}attn_v.weight", at(f"{prefix}self_attn.v_proj.weight"))
        check(f"{ours}attn_output.weight", at(f"{prefix}self_attn.o_proj.weight"))
        for part, heads in (("q", 4), ("k", 2)):
            rows = at(f"{prefix}self_attn.{part}_proj.weight")
            halves = rows.reshape(heads, 2, 8, 64)
            paired = np.stack([halves[:, 0], halves[:, 1]], axis=2)
            check(f"{ours}attn_{part}.weight", paired.reshape(rows.shape))
        check(f"{ours}ffn_gate_inp.weight", at(f"{prefix}mlp.gate.weight"))
        both = at(f"{prefix}mlp.experts.gate_up_proj")
        check(f"{ours}ffn_gate_exps.weight", both[:, :96])
        check(f"{ours}ffn_up_exps.weight", both[:, 96:])
        check(f"{ours}ffn_down_exps.weight", at(f"{prefix}mlp.experts.down_proj"))
    assert not read  # a tied head is not written twice


def test_tokens_are_those_of_the_tokenizer(model: Path, tmp_path: Path) -> None:
    write_gguf(model, tmp_path / "model.gguf", "f16")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")

    def field(name: str) -> object:
        found = reader.get_field(name)
        assert found is not None
        return found.contents()

    vocabulary = transformers.AutoTokenizer.from_pretrained(model).get_vocab()
    assert field("tokenizer.ggml.tokens") == sorted(vocabulary, key=vocabulary.__getitem__)
    kinds = field("tokenizer.ggml.token_type")
    assert isinstance(kinds, list)
    control = [n for n, kind in enumerate(kinds) if kind == gguf.TokenType.CONTROL]
    assert control == [vocabulary[name] for name in vocabularies.SPECIAL]
    assert field("llama.expert_count") == 4
    assert field("llama.expert_used_count") == 2
    assert field("tokenizer.ggml.eos_token_id") == 2


def test_another_family_is_refused(tmp_path: Path) -> None:
    folder = tiny.saved(tiny.llama(), tmp_path / "llama")
    with pytest.raises(CheckpointError, match="only mixtral is written"):
        write_gguf(folder, tmp_path / "model.gguf", "f16")
