"""The loss on held-out text from files: against the whole model at once, and what has no loss."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from moe.checkpoint.reader import Checkpoint
from moe.errors import CheckpointError, DataError
from moe.surgery.held_out import held_out, text_loss
from moe.surgery.streamed import logits
from moe.surgery.text import Text
from tests import tiny


def text() -> Text:
    rows = tiny.tokens(97, 9, 12)
    return Text("text", rows[:, :-1], rows[:, 1:])


def test_both_ways_agree_with_the_logits_of_all_tokens(tmp_path: Path) -> None:
    one = Checkpoint.open(tiny.saved(tiny.mixtral(), tmp_path / "one"))
    other = Checkpoint.open(tiny.saved(tiny.mixtral(seed=1), tmp_path / "other"))
    found = held_out(one, other, text())
    for loss, model in ((found.loss_before, one), (found.loss_after, other)):
        all_of_them = logits(model, text().tokens).flatten(0, 1)
        expected = cross_entropy(all_of_them, text().labels.flatten()).item()
        assert loss == pytest.approx(expected, rel=1e-5)
        assert text_loss(model, text()) == pytest.approx(loss, rel=1e-12)
    assert found.tokens == 99


def test_text_without_labels_has_no_loss(tmp_path: Path) -> None:
    model = Checkpoint.open(tiny.saved(tiny.mixtral(), tmp_path / "one"))
    empty = Text("short", text().tokens, torch.full_like(text().labels, -100))
    with pytest.raises(DataError, match="no label of short counts, so there is nothing"):
        text_loss(model, empty)
    with pytest.raises(DataError, match="no label of short counts, so there is nothing"):
        held_out(model, model, empty)


def test_a_loss_that_is_no_number_names_the_model(tmp_path: Path) -> None:
    model = tiny.mixtral()
    model.model.norm.weight.data.fill_(torch.nan)
    path = tiny.saved(model, tmp_path / "one")
    with pytest.raises(CheckpointError, match=r"loss of .*one is not a number; find its layer"):
        text_loss(Checkpoint.open(path), text())
