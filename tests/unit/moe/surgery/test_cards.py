"""Every conversion leaves a card that the hub reads, and whose hash its receipt has."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

from moe.checkpoint.card.front_matter import README
from moe.checkpoint.card.steps import RECEIPT, steps_of
from moe.checkpoint.manifest import load_manifest
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.training import WholeState, write_training_checkpoint
from moe.surgery.growing.expand import expand
from moe.surgery.growing.options import ExpandOptions
from moe.surgery.mixing.mix import mix
from moe.surgery.mixing.options import MixOptions
from moe.surgery.options import UpcycleOptions
from moe.surgery.shrink.compress import compress
from moe.surgery.shrink.options import CompressOptions
from moe.surgery.shrink.prune import Prune
from moe.surgery.text import Text, Texts
from moe.surgery.upcycle import upcycle
from tests import mixtures, plans, saves, tiny

OPTIONS = UpcycleOptions(experts=4, top_k=2)


def text(name: str, seed: int) -> Text:
    drawn = tiny.tokens(97, 2, 9, seed=seed)
    return Text(name, drawn, drawn.roll(-1, 1))


TEXTS = Texts(text("the training split", 1), text("the held-out split", 2))


def checked(directory: Path, *methods: str) -> ModelCard:
    """Return the card of a directory, whose receipt must have its hash."""
    assert [step["method"] for step in steps_of(directory)] == [*methods]
    files = json.loads((directory / RECEIPT).read_text())["files"]
    assert files[README] == hashlib.sha256((directory / README).read_bytes()).hexdigest()
    return ModelCard.load(directory / README)


def dense(path: Path, seed: int = 0) -> Path:
    tiny.saved(tiny.llama(seed), path)
    (path / README).write_text("---\nlicense: mit\n---\n# A dense model\n")
    return path


def test_a_chain_of_conversions_is_told_whole(tmp_path: Path) -> None:
    upcycle(dense(tmp_path / "dense"), tmp_path / "moe", OPTIONS)
    card = checked(tmp_path / "moe", "upcycle (copy)")
    assert (card.data.license, card.data.base_model) == ("mit", "dense")
    expand(tmp_path / "moe", tmp_path / "more", ExpandOptions(8), TEXTS)
    card = checked(tmp_path / "more", "upcycle (copy)", "expand")
    assert card.data.eval_results[0].dataset_name == "the held-out split"
    done = compress(
        tmp_path / "more", tmp_path / "less", CompressOptions(4, Prune("traffic")), TEXTS
    )
    card = checked(tmp_path / "less", "upcycle (copy)", "expand", "compress (prune)")
    assert done.losses is not None
    assert card.data.eval_results[0].metric_value == pytest.approx(done.losses[1])
    assert (tmp_path / "less" / "README.base.md").read_text().endswith("# A dense model\n")
    assert card.data.license == "mit"


def test_a_mixture_and_random_weights_have_cards_too(tmp_path: Path) -> None:
    models = [dense(tmp_path / f"dense{seed}", seed) for seed in range(2)]
    mix(models, tmp_path / "mixed", MixOptions(UpcycleOptions(experts=2, top_k=2)))
    card = checked(tmp_path / "mixed", "mix")
    assert card.data.base_model == ["dense0", "dense1"]
    mixtures.made("deepseek", tmp_path / "scratch")
    assert checked(tmp_path / "scratch", "init").data.license == "unknown"


def test_a_training_checkpoint_has_one_that_people_may_edit(tmp_path: Path) -> None:
    upcycle(dense(tmp_path / "dense"), tmp_path / "moe", OPTIONS)
    model = Checkpoint.open(tmp_path / "moe")
    about = saves.about(model.config, tmp_path / "moe", plans.single(model.config))
    to = tmp_path / "step-00000003"
    state = WholeState(model.read, lambda tensor, moment: torch.zeros(tensor.shape), {})
    write_training_checkpoint(to, about, state)
    card = ModelCard.load(to / README)
    assert card.data.base_model == "dense"
    first, last = steps_of(to)
    assert (first["method"], last["method"]) == ("upcycle (copy)", "train")
    assert last["options"]["steps done"] == 3
    assert (last["data"], last["plan"]) == (
        {"token shards": "data"},
        "1 replica of 1 stage of 1 rank",
    )
    (to / README).write_text("# My model\n")
    assert load_manifest(to).step == 3
