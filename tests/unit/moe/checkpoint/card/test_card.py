"""The README of a model directory, read by the hub's own library."""

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from moe.checkpoint.card.body import SOURCE, THIS, Measured
from moe.checkpoint.card.card import BASE_README, write_card
from moe.checkpoint.card.front_matter import README
from moe.checkpoint.card.steps import Made, steps_of
from tests.mixtures import SKYWORK

MADE = Made("upcycle (copy)", {"experts": 4, "none": None, "shape": {"a": 1}, "list": [1, 2]})


def base(path: Path, readme: str | None = None, **config: Any) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    if readme is not None:
        (path / README).write_text(readme)
    return path


def made(directory: Path, *sources: Path, **more: Any) -> ModelCard:
    directory.mkdir()
    (directory / "config.json").write_text('{"auto_map": {}}')
    about = {"made": MADE, "measured": ()} | more
    write_card(directory, sources, SKYWORK, about["made"], about["measured"])
    return ModelCard.load(directory / README)


def test_the_hub_reads_base_licence_steps_and_losses(tmp_path: Path) -> None:
    source = base(tmp_path / "dense", _name_or_path="HuggingFaceTB/SmolLM2-135M")
    (source / "LICENSE").write_text("Apache License\nVersion 2.0")
    losses = (Measured(SOURCE, 3.5, "tokens"), Measured(THIS, 3.25, "tokens", "ab" * 32))
    card = made(tmp_path / "moe", source, measured=losses)
    data = card.data
    assert (data.license, data.base_model) == ("apache-2.0", "HuggingFaceTB/SmolLM2-135M")
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-generation")
    assert data.tags == ["raymoe", "mixture-of-experts", "skywork_moe"]
    (loss,) = data.eval_results
    assert (loss.metric_type, loss.metric_value, loss.dataset_name) == ("loss", 3.25, "tokens")
    (step,) = steps_of(tmp_path / "moe")
    assert step == {
        "method": "upcycle (copy)",
        "source": ["dense"],
        "options": {"experts": 4, "list": "1, 2"},
    }
    text = card.text
    assert "# HuggingFaceTB/SmolLM2-135M, upcycle (copy)" in text
    assert "| its source | 3.5000 | tokens |  |" in text
    assert "trust_remote_code=True" in text
    assert "6 experts, of which each token uses 2" in text
    assert "as LICENSE says: apache-2.0" in text


def test_nothing_is_said_that_nobody_knows(tmp_path: Path) -> None:
    card = made(tmp_path / "moe", base(tmp_path / "dense"))
    assert (card.data.license, card.data.base_model) == ("unknown", "dense")
    assert card.data.eval_results is None
    assert "No loss was measured" in card.text
    assert "licence of the base is not known" in card.text
    alone = made(tmp_path / "scratch")
    assert (alone.data.license, alone.data.base_model) == ("unknown", None)
    assert "weights are random" in alone.text


def test_each_conversion_adds_a_step_and_the_first_readme_stays(tmp_path: Path) -> None:
    theirs = "---\nlicense: mit\nlanguage: [en]\n---\n# Dense\nby its authors\n"
    source = base(tmp_path / "dense", theirs)
    made(tmp_path / "moe", source)
    data = {"tokens": "cd" * 32}
    card = made(tmp_path / "small", tmp_path / "moe", made=Made("compress", data=data))
    assert (card.data.license, card.data.language) == ("mit", ["en"])
    assert card.data.base_model == "dense"
    assert (tmp_path / "small" / BASE_README).read_text() == theirs
    assert [step["method"] for step in steps_of(tmp_path / "small")] == [
        "upcycle (copy)",
        "compress",
    ]
    assert f"text tokens: SHA-256 `{'cd' * 32}`" in card.text


def test_a_mixture_names_all_its_bases(tmp_path: Path) -> None:
    one = base(tmp_path / "one", "---\nlicense: mit\n---\n")
    other = base(tmp_path / "other", "---\nlicense: apache-2.0\n---\n")
    card = made(tmp_path / "mixed", one, other, made=Made("mix"))
    assert card.data.base_model == ["one", "other"]
    assert (card.data.license, card.data.license_name) == ("other", "apache-2.0 and mit")


def test_a_receipt_without_a_card_is_a_step(tmp_path: Path) -> None:
    source = base(tmp_path / "dense")
    (source / "receipt.json").write_text(json.dumps({"method": "dequantise", "source": "a wheel"}))
    made(tmp_path / "moe", source)
    assert [step["method"] for step in steps_of(tmp_path / "moe")] == [
        "dequantise",
        "upcycle (copy)",
    ]


@pytest.mark.parametrize(
    "readme",
    [
        "---\nraymoe: [1, 2]\nbase_model: 3\n---\n",
        "---\nraymoe: {steps: 5}\n---\n",
        "---\nraymoe: {steps: [x, {method: [a], options: 7, source: {}}]}\n---\n",
        "---\nlicense: '</script><b>|`'\nlanguage: &a [*a]\n---\n",
        "---\n" + "a: &a [x]\n" * 3 + "---\n",
        "\ufeff---\nlicense: mit\n---\n",
        "",
    ],
)
def test_cards_that_others_wrote_stop_no_conversion(readme: str, tmp_path: Path) -> None:
    card = made(tmp_path / "moe", base(tmp_path / "dense", readme))
    assert steps_of(tmp_path / "moe")[-1]["method"] == "upcycle (copy)"
    assert "<b>" not in card.text
