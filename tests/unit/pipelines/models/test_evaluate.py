"""Held-out loss against transformers' own loss, and router health by hand."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from moe.errors import CheckpointError, ConfigError, DataError
from pipelines.corpus.manifest import read_manifest, write_manifest
from pipelines.corpus.packing import cut
from pipelines.corpus.shard_writer import ShardWriter
from pipelines.corpus.shards import TokenShards
from pipelines.corpus.tokenize import TokenizeOptions, tokenize
from pipelines.models.evaluate import EvaluateOptions, evaluate
from pipelines.models.scoring.totals import TextLoss
from pipelines.models.scoring.windows import Window
from pipelines.models.text import text_from
from pipelines.training.beginning import check_kind
from pipelines.tuning.reading import TuningOptions
from pipelines.tuning.tokenize import tokenize_rows
from tests import chats, runs, tiny, vocabularies


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    vocabulary = vocabularies.byte_level()
    for name, make in (("moe", tiny.mixtral), ("dense", tiny.llama)):
        model = tiny.saved(make(vocab_size=vocabulary.get_vocab_size()), folder / name)
        vocabularies.save(vocabulary, model)
    (folder / "text").mkdir()
    for number in range(12):
        words = " ".join(str(word * number) for word in range(90))
        (folder / "text" / f"{number}.txt").write_text(words)
    options = TokenizeOptions(sequence_length=24, held_out_fraction=0.3)
    tokenize([folder / "text"], folder / "moe", folder / "tokens", options)
    return folder


@pytest.mark.parametrize("name", ["moe", "dense"])
@pytest.mark.parametrize("rows", [None, 5])
def test_the_loss_is_that_of_transformers(name: str, rows: int | None, material: Path) -> None:
    result = evaluate(material / name, material / "tokens", EvaluateOptions(rows=rows, batch=3))
    theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(material / name)
    shards = TokenShards.open(material / "tokens", "held_out")
    total, count = 0.0, 0
    for row in range(len(shards)) if rows is None else _spread(len(shards), rows):
        batch = shards.batch([row])
        with torch.no_grad():
            logits = theirs(torch.from_numpy(batch.tokens).long()).logits
        labels = torch.from_numpy(batch.labels).long()
        total += torch.nn.functional.cross_entropy(
            logits[0], labels[0], ignore_index=-100, reduction="sum"
        ).item()
        count += int((labels != -100).sum())
    assert result.tokens == count
    assert result.loss == pytest.approx(total / count, rel=1e-5)


def test_every_router_is_examined(material: Path) -> None:
    result = evaluate(material / "moe", material / "tokens", EvaluateOptions(rows=4))
    assert sorted(result.layers) == [0, 1, 2]
    for layer in result.layers.values():
        assert sum(layer.load) == pytest.approx(1.0)
        assert layer.imbalance == pytest.approx(4 * max(layer.load))
        assert layer.sharpness >= 1.0
        assert abs(layer.similarity) < 0.2


def test_a_model_of_another_vocabulary_is_refused(material: Path, tmp_path: Path) -> None:
    small = tiny.saved(tiny.llama(vocab_size=50), tmp_path / "small")
    with pytest.raises(
        DataError, match=r"tokens up to \d+, but the model has embeddings for 0 to 49"
    ):
        evaluate(small, material / "tokens", EvaluateOptions())


@pytest.mark.parametrize(
    ("name", "layer", "said"),
    [
        ("model.layers.1.block_sparse_moe.gate.weight", 1, "holds 1 values"),
        ("model.layers.2.self_attn.o_proj.weight", 2, "holds 1 values"),
        ("model.norm.weight", None, "the last norm: weight holds 1 values"),
        ("model.embed_tokens.weight", None, "the embedding: weight holds 1 values"),
    ],
)
def test_a_weight_that_is_no_number_is_an_error_that_names_its_layer(
    name: str, layer: int | None, said: str, material: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(material / "moe", broken)
    (file,) = broken.glob("*.safetensors")
    weights = load_file(file)
    weights[name].view(-1)[0] = float("nan")
    if "embed" in name:
        weights[name][:, 0] = float("nan")
        said = said.replace("1 values", f"{len(weights[name])} values")
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError) as caught:
        evaluate(broken, material / "tokens", EvaluateOptions(rows=2))
    assert "is not a finite number; the first values that are not finite come from" in str(
        caught.value
    )
    assert said in str(caught.value)
    if layer is not None:
        assert f"from layer {layer}: " in str(caught.value)


def test_a_model_whose_values_overflow_is_an_error_that_names_its_layer(
    material: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(material / "dense", broken)
    (file,) = broken.glob("*.safetensors")
    weights = load_file(file)
    weights["model.layers.1.mlp.down_proj.weight"].fill_(3e38)
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="layer 1: its weights are finite, but its output"):
        evaluate(broken, material / "tokens", EvaluateOptions(rows=2))


def test_a_perplexity_beyond_floats_is_infinite() -> None:
    assert TextLoss(800.0, 1).perplexity == float("inf")


def test_no_rows_are_refused() -> None:
    with pytest.raises(ConfigError, match="0 sequences in batches of 2"):
        EvaluateOptions(rows=0)


def _spread(total: int, wanted: int) -> list[int]:
    return sorted({(total - 1) * place // (wanted - 1) for place in range(wanted)})


def test_rows_in_which_no_label_counts_are_refused(material: Path, tmp_path: Path) -> None:
    """As where each of the documents in them has one token there."""
    documents = [(np.array([number], dtype=np.int32), 0) for number in range(40)]
    shards = ShardWriter(tmp_path, "held_out", ["a"], 8, 5).write(cut(documents, 8)).shards
    manifest = read_manifest(material / "tokens")
    held_out = replace(manifest.held_out, rows=5, shards=shards)
    write_manifest(tmp_path, replace(manifest, sequence_length=8, held_out=held_out))
    with pytest.raises(DataError, match=f"no label counts in the 3 rows of {tmp_path}"):
        evaluate(material / "moe", tmp_path, EvaluateOptions(rows=3))


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with marks in its template, and conversations packed and padded for it."""
    folder = tmp_path_factory.mktemp("chat")
    vocabulary = vocabularies.byte_level()
    model = tiny.saved(tiny.mixtral(vocab_size=vocabulary.get_vocab_size()), folder / "model")
    vocabularies.save(vocabulary, model, chats.MARKED)
    rows = [{"messages": chats.turns(f"count {n}", "one and " * (n % 5 + 1))} for n in range(14)]
    pairs = [{"prompt": f"{n}?", "chosen": "yes", "rejected": "no"} for n in range(8)]
    for kind, each in (("chat", rows), ("preference", pairs)):
        chats.write(folder / f"{kind}.jsonl", each)
    for name, kind in (("packed", "chat"), ("padded", "chat"), ("pairs", "preference")):
        options = TokenizeOptions(64, 0.3, packing="padded" if name == "padded" else "packed")
        tuning = TuningOptions(kind)  # type: ignore[arg-type]
        tokenize_rows([folder / f"{kind}.jsonl"], model, folder / name, tuning, options)
    return folder


@pytest.mark.parametrize("packing", ["packed", "padded"])
def test_the_loss_on_answers_is_that_of_transformers(packing: str, chat: Path) -> None:
    """Labels of -100 on all but answers, each conversation alone, the mean over all that count."""
    theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(chat / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(chat / "model")
    total, count = 0.0, 0
    for line in (chat / "chat.jsonl").read_text().splitlines():
        made = tokenizer.apply_chat_template(
            json.loads(line)["messages"], return_dict=True, return_assistant_tokens_mask=True
        )
        tokens, marks = (torch.tensor([made[k]]) for k in ("input_ids", "assistant_masks"))
        labels = tokens.masked_fill(marks == 0, -100)
        with torch.no_grad():
            total += theirs(tokens, labels=labels).loss.item() * int(marks.sum())
        count += int(marks.sum())
    results = [
        evaluate(chat / "model", chat / packing, EvaluateOptions(split))
        for split in ("train", "held_out")
    ]
    assert sum(result.tokens for result in results) == count
    ours = sum(result.loss * result.tokens for result in results)
    assert ours / count == pytest.approx(total / count, rel=1e-5)


def test_rows_that_something_does_not_take_are_refused_by_it(chat: Path) -> None:
    model = chat / "model"
    with pytest.raises(DataError, match="holds pairs of a chosen and a rejected answer; evaluate"):
        evaluate(model, chat / "pairs", EvaluateOptions())
    with pytest.raises(ConfigError, match=r"windows over one text, but the documents of .* are"):
        evaluate(model, chat / "packed", EvaluateOptions(window=Window(8, 4)))
    with pytest.raises(DataError, match="holds chat rows that are packed; methods measure on text"):
        text_from(model, chat / "packed", "train", 2)
    run = runs.run_config(model, data={"path": str(chat / "pairs"), "kind": "preference"})
    with pytest.raises(ConfigError, match="which the loss of this raymoe does not compare"):
        check_kind(run, TokenShards.open(chat / "pairs", "train"))
