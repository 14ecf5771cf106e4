"""Fine-grained upcycling against megatron-core 0.16.1 (``tests/oracles/megatron.py``)."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from moe.config.model import MoeConfig
from moe.surgery.copies import VirtualGroup
from moe.surgery.method import Site
from moe.surgery.part import Part

GOLDEN = json.loads((Path(__file__).parents[3] / "oracles" / "megatron.json").read_text())
CASES = {
    name: case
    for name, case in GOLDEN["upcycling"].items()
    if case["options"]["granularity"] > 1 and case["options"]["activation"] == "swiglu"
}


@pytest.mark.parametrize("name", list(CASES))
def test_the_experts_are_those_of_megatron(name: str) -> None:
    """Megatron spreads its factor over all three projections, we put it into down alone."""
    case = CASES[name]
    asked, given, expected = case["options"], case["inputs"], case["outputs"]
    pieces = asked["granularity"]
    gate, up = torch.tensor(given["fc1"]).chunk(2)
    width, method = gate.shape[0], VirtualGroup(pieces)
    whole = MoeConfig(asked["experts"] // pieces, asked["topk"] // pieces, width)
    cut = method.cut(Site(0, width, method.shape(whole), seed=0))
    assert len(cut.experts) == asked["experts"]
    for number, part in enumerate(cut.experts):
        theirs = torch.tensor(expected["fc1"][number]) / expected["scale"]
        ours = torch.cat([_taken(part, "gate", gate), _taken(part, "up", up)])
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)
        down = torch.tensor(expected["fc2"][number]) / expected["scale"]
        assert torch.allclose(_taken(part, "down", torch.tensor(given["fc2"])), down, atol=1e-6)


@pytest.mark.parametrize("name", list(CASES))
def test_the_router_repeats_its_rows_as_megatron_does(name: str) -> None:
    case = CASES[name]
    rows = torch.tensor(case["outputs"]["router"])
    pieces = VirtualGroup(case["options"]["granularity"]).repeats
    assert torch.equal(rows, rows[::pieces].repeat_interleave(pieces, dim=0))


def _taken(part: Part, projection: str, weight: Tensor) -> Tensor:
    blocks: Any = part.blocks(f"experts.0.{projection}_proj.weight", weight, torch.Generator())
    return torch.cat(list(blocks))
