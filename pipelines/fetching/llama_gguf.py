"""A Llama model in GGUF, read in Hugging Face form: architecture, weights, tokenizer.

llama.cpp stores the two halves of each rotary pair of query and key rows side by side; Hugging Face
stores all first halves before all second halves. ``weights`` restores the order of Hugging Face.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from moe.config.model import ModelConfig
from moe.config.tensors import EMBEDDING, FINAL_NORM, HEAD, layer_prefix, tensors
from moe.errors import CheckpointError

_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTER_NAMES = {
    "token_embd.weight": EMBEDDING,
    "output_norm.weight": FINAL_NORM,
    "output.weight": HEAD,
}


class LlamaGguf:
    """One open GGUF file; a tensor is read when it is requested."""

    def __init__(self, path: Path) -> None:
        try:
            self._reader = gguf.GGUFReader(path)
        except (OSError, ValueError, LookupError, ArithmeticError) as error:
            raise CheckpointError(f"{path} is not a readable GGUF file: {error}") from error
        self._path = path

    def field(self, name: str) -> Any:
        """Return one metadata value."""
        field = self._reader.get_field(name)
        if field is None:
            raise CheckpointError(f"{self._path} lacks the metadata {name!r}; is it a Llama GGUF?")
        return field.contents()

    def architecture(self) -> ModelConfig:
        """Return the sizes of the model and its special token ids."""
        heads = int(self.field("llama.attention.head_count"))
        hidden = int(self.field("llama.embedding_length"))
        epsilon = np.float32(self.field("llama.attention.layer_norm_rms_epsilon"))
        names = {tensor.name for tensor in self._reader.tensors}
        return ModelConfig(
            family="llama",
            vocab_size=len(self.field("tokenizer.ggml.tokens")),
            hidden_size=hidden,
            layers=int(self.field("llama.block_count")),
            heads=heads,
            kv_heads=int(self.field("llama.attention.head_count_kv")),
            head_size=hidden // heads,
            ffn_size=int(self.field("llama.feed_forward_length")),
            norm_eps=float(str(epsilon)),
            rope_theta=float(self.field("llama.rope.freq_base")),
            max_positions=int(self.field("llama.context_length")),
            tie_embeddings="output.weight" not in names,
            bos_token_id=int(self.field("tokenizer.ggml.bos_token_id")),
            eos_token_ids=(int(self.field("tokenizer.ggml.eos_token_id")),),
            pad_token_id=int(self.field("tokenizer.ggml.padding_token_id")),
        )

    def weights(self) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
        """Yield every tensor, dequantised to float32, under its Hugging Face name."""
        config = self.architecture()
        missing = {tensor.name: tensor for tensor in tensors(config)}
        for tensor in self._reader.tensors:
            name = _hugging_face_name(tensor.name)
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            ours = missing.pop(name, None)
            part = None if ours is None else ours.role.part
            if part == "query":
                values = _split_halves(values, config.heads)
            elif part == "key":
                values = _split_halves(values, config.kv_heads)
            if ours is None or ours.shape != values.shape:
                raise CheckpointError(
                    f"{self._path} holds {tensor.name} with shape {values.shape}, which the "
                    "model of its metadata does not have; the file is damaged or not a plain Llama"
                )
            yield name, np.array(values, dtype=np.float32, order="C")  # the file is read-only
        if missing:
            raise CheckpointError(
                f"{self._path} lacks {len(missing)} tensors, first {min(missing)}; fetch it again"
            )

    def tokenizer(self) -> Tokenizer:
        """Return the byte-level BPE tokenizer.

        The metadata gives only the name ``smollm`` for the pre-tokenizer: it splits off every
        single digit, then applies GPT-2's pattern.
        """
        kind = (self.field("tokenizer.ggml.model"), self.field("tokenizer.ggml.pre"))
        if kind != ("gpt2", "smollm"):
            raise CheckpointError(
                f"{self._path} has a tokenizer of kind {kind}; only ('gpt2', 'smollm') is known"
            )
        tokens = self.field("tokenizer.ggml.tokens")
        merges = [tuple(merge.split(" ", 1)) for merge in self.field("tokenizer.ggml.merges")]
        vocabulary = {token: number for number, token in enumerate(tokens)}
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        kinds = self.field("tokenizer.ggml.token_type")
        control = [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind == gguf.TokenType.CONTROL
        ]
        tokenizer.add_special_tokens(control)
        return tokenizer


def _hugging_face_name(name: str) -> str:
    if name in _OUTER_NAMES:
        return _OUTER_NAMES[name]
    block, _, rest = name.removeprefix("blk.").partition(".")
    part, _, kind = rest.rpartition(".")
    if not block.isdigit() or part not in _LAYER_NAMES:
        raise CheckpointError(f"GGUF tensor {name} does not belong to a Llama model")
    return f"{layer_prefix(int(block))}{_LAYER_NAMES[part]}.{kind}"


def _split_halves(values: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """Reorder rows from (head, pair, half) to (head, half, pair)."""
    pairs = values.shape[0] // heads // 2
    ordered = values.reshape(heads, pairs, 2, *values.shape[1:]).swapaxes(1, 2)
    return ordered.reshape(values.shape)
