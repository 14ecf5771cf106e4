"""The first part of a model that computes values that are not finite."""

from pathlib import Path

import pytest
import torch

from moe.checkpoint.reader import Checkpoint
from moe.nn.build import build
from moe.nn.decoder import PLAIN, Decoder
from moe.nn.finite import first_fault
from tests import tiny

TOKENS = torch.arange(12).view(2, 6)


@pytest.fixture
def decoder(tmp_path: Path) -> Decoder:
    checkpoint = Checkpoint.open(tiny.saved(tiny.mixtral(), tmp_path / "model"))
    return build(checkpoint.config, checkpoint.read).eval()


def test_a_sound_model_has_none_and_keeps_no_hooks(decoder: Decoder) -> None:
    assert first_fault(decoder, TOKENS, PLAIN) is None
    assert not any(module._forward_hooks for module in decoder.modules())


def test_the_first_of_several_is_named_with_its_tensors(decoder: Decoder) -> None:
    with torch.no_grad():
        for layer in ("1", "2"):
            for name, parameter in decoder.model.layers[layer].named_parameters():
                if "router" in name or "o_proj" in name:
                    parameter.view(-1)[:3] = float("inf")
    said = first_fault(decoder, TOKENS, PLAIN)
    assert said is not None
    assert said.startswith("layer 1: ")
    assert "router" in said
    assert "o_proj" in said
    assert said.endswith("holds 3 values that are not finite")
