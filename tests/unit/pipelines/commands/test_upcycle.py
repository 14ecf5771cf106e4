"""raymoe upcycle: of a dense model, of a mixture of experts, of several models."""

import json
import re
from pathlib import Path

import pytest

from moe.checkpoint.reader import Checkpoint
from pipelines.corpus.tokenize import TokenizeOptions, tokenize
from tests import tiny, vocabularies
from tests.shell import Shell


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a mixture of experts, two dense models and tokens for all."""
    monkeypatch.chdir(tmp_path)
    words = vocabularies.byte_level()
    made = {"moe": tiny.mixtral(0, vocab_size=words.get_vocab_size())}
    made |= {name: tiny.llama(n, vocab_size=words.get_vocab_size()) for n, name in enumerate("ab")}
    for name, model in made.items():
        vocabularies.save(words, tiny.saved(model, tmp_path / name))
    (tmp_path / "text").mkdir()
    for number in range(12):
        text = " ".join(str(word * number) for word in range(90))
        (tmp_path / "text" / f"{number}.txt").write_text(text)
    options = TokenizeOptions(sequence_length=24, held_out_fraction=0.3)
    tokenize([tmp_path / "text"], tmp_path / "moe", tmp_path / "tokens", options)
    return tmp_path


def test_experts_are_copied_by_load_and_the_loss_is_measured(models: Path, shell: Shell) -> None:
    asked = ("--method", "expand", "--experts", 6, "--by", "load", "--calibration", "tokens")
    said, _ = shell.run("upcycle", "moe", "--to", "more", *asked)
    assert "held-out loss" in said
    assert "copied in layer 2" in said
    assert Checkpoint.open(models / "more").config.experts == 6
    table = json.loads((models / "more" / "receipt.json").read_text())
    assert table["options"]["calibration"]["source"] == "tokens"
    assert table["held_out"]["source"] == "tokens"


def test_models_are_mixed_by_prompts(models: Path, shell: Shell) -> None:
    for name in "ab":
        (models / f"{name}.txt").write_text(f"what {name} knows\n\nmore of {name}\n")
    prompts = ("--prompts", "a.txt", "--prompts", "b.txt")
    said, _ = shell.run("upcycle", "a", "b", "--to", "mixed", "--method", "mix", *prompts)
    assert "expert 1, b" in said
    assert Checkpoint.open(models / "mixed").config.experts == 2
    table = json.loads((models / "mixed" / "receipt.json").read_text())
    assert table["options"]["router"] == "prompts"
    assert table["options"]["prompts"] == ["a.txt", "b.txt"]


def test_experts_are_merged_for_segments(models: Path, shell: Shell) -> None:
    shell.run("upcycle", "a", "--to", "lory", "--experts", 3, "--segment-tokens", 8)
    moe = Checkpoint.open(models / "lory").config.moe
    assert moe is not None
    assert (moe.experts, moe.top_k, moe.segment_tokens, moe.first_segment) == (3, 1, 8, "even")
    shell.run("evaluate", "lory", "--data", "tokens")
    refused = shell.refused("upcycle", "a", "--to", "x", "--first-segment", "own")
    assert "first_segment = 'own' has no effect" in refused


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("moe", "--method", "expand"), "expand takes --experts, the number of experts after"),
        (("moe", "--method", "expand", "--experts", 8, "--top-k", 4), "expand has no --top-k"),
        (("moe", "a", "--method", "expand", "--experts", 8), "takes one model, 2 are given"),
        (("a", "b"), "the method copy takes one model, 2 are given; for several, choose mix"),
        (("a", "--keep", "function"), "copy has no --keep, .* choose expand"),
        (("a", "b", "--method", "mix", "--experts", 4), "mix has no --experts"),
        (("a", "b", "--method", "mix", "--router", "centroid"), "centroid"),
        (("a", "--method", "mix"), "a mixture needs at least two models"),
        (("a", "--method", "melt"), "no method 'melt'; choose copy, .*, expand, mix"),
        (("moe", "--method", "expand", "--experts", 8, "--with-optimizer"), "no moments to carry"),
        (("a", "b", "--method", "mix", "--prompts", "no"), "no file of prompts at no"),
    ],
)
def test_what_has_no_effect_or_no_sense_is_refused(
    words: tuple[object, ...], message: str, models: Path, shell: Shell
) -> None:
    assert (models / "moe").exists()
    assert re.search(message, shell.refused("upcycle", *words, "--to", "x"))
    assert not (models / "x").exists()
