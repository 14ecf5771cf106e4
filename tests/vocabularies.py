"""Tiny tokenizers of the two kinds that real models have, saved beside tiny models."""

from pathlib import Path

import transformers
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

TEXTS = [
    "the quick brown fox jumps over the lazy dog, and the dog does not mind at all.",
    "a mixture of experts: the router sends each token to the two experts that suit it.",
    "naïve café, 12 € for a crème brûlée; наука, 機械学習, 🙂🙃 👩‍💻 and so on\n\n",
]
SPECIAL = ["<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>"]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'assistant' and loop.first %}"
    "{{ raise_exception('a conversation begins with the user') }}{% endif %}"
    "<|{{ message.role }}|>{{ message.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
HERMES = (
    "{{ bos_token }}{% if tools %}<|system|>Call as <tool_call>JSON</tool_call>."
    "{% for tool in tools %}{{ tool.function.name }} {% endfor %}{{ eos_token }}{% endif %}"
    "{% for message in messages %}<|{{ 'user' if message.role == 'tool' else message.role }}|>"
    "{{ message.content }}{% for call in message.tool_calls or [] %}<tool_call>"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}'
    "</tool_call>{% endfor %}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{{ style or '' }}{% endif %}"
)
"""A template with tools, which writes calls as Hermes and Qwen models do."""

LLAMA = (
    HERMES.replace("<tool_call>", "")
    .replace("</tool_call>", "")
    .replace('"arguments"', '"parameters"')
)
"""The same, which writes calls as Llama 3 models do."""


def byte_level(size: int = 320) -> Tokenizer:
    """Return a byte-level BPE, as Llama 3 and SmolLM2 have; any bytes can be spelled."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def byte_fallback() -> Tokenizer:
    """Return a BPE over characters that spells unknown ones as bytes, as Llama 2 and Mixtral do."""
    letters = sorted({*"".join(TEXTS[:2]).replace(" ", ""), "\u2581", "é"})
    names = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    pairs = [("t", "h"), ("\u2581", "th"), ("\u2581th", "e"), ("\u2581", "a")]
    vocabulary = {name: number for number, name in enumerate([*names, *map("".join, pairs)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, pairs, byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    return tokenizer


def save(tokenizer: Tokenizer, model: Path, template: str | None = TEMPLATE) -> Path:
    """Write a tokenizer into a model directory."""
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>"
    )
    wrapped.chat_template = template
    wrapped.save_pretrained(model)
    return model
