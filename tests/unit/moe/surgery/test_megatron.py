"""Fine-grained upcycling against megatron-core 0.16.1 (``tests/oracles/megatron.py``)."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from moe.config.model import MoeConfig
from moe.config.role import ModelPart, Role
from moe.config.tensors import TensorSlice
from moe.surgery.copies import Copy, VirtualGroup
from moe.surgery.method import Method, Site
from moe.surgery.options import UpcycleOptions
from moe.surgery.part import Cut, Part
from moe.surgery.routers import new_tensor

GOLDEN = json.loads((Path(__file__).parents[3] / "oracles" / "megatron.json").read_text())
SCALES = {
    name: case
    for name, case in GOLDEN["upcycling"].items()
    if case["options"]["activation"] == "swiglu"
}
CASES = {name: case for name, case in SCALES.items() if case["options"]["granularity"] > 1}


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
    """Megatron repeats rows it is given and we draw ours, so which rows are alike is compared."""
    case = CASES[name]
    theirs, pieces = torch.tensor(case["outputs"]["router"]), case["options"]["granularity"]
    options = UpcycleOptions(len(theirs) // pieces, 2, method=VirtualGroup(pieces))
    router = TensorSlice("model.layers.0.mlp.router.weight", tuple(theirs.shape), Role("router", 0))
    ours = new_tensor(router, Cut(()), torch.empty(0), options)
    assert ours.shape == theirs.shape
    assert torch.equal(_alike(ours), _alike(theirs))


@pytest.mark.parametrize("name", list(SCALES))
def test_the_gain_is_the_product_of_megatrons_factors(name: str) -> None:
    """Three projections are multiplied by ``scale``, so without the silu the output by its cube."""
    asked, scale = SCALES[name]["options"], SCALES[name]["outputs"]["scale"]
    pieces, raw = asked["granularity"], asked["pre_softmax"]
    whole = MoeConfig(asked["experts"] // pieces, asked["topk"] // pieces, 8, renormalise=not raw)
    method: Method = VirtualGroup(pieces) if pieces > 1 else Copy()
    assert method.gain(method.shape(whole)) == pytest.approx(scale**3, rel=1e-6)


def _alike(rows: Tensor) -> Tensor:
    """Tell of every two rows whether they are equal."""
    return (rows[:, None] == rows[None]).all(dim=2)


def _taken(part: Part, projection: ModelPart, weight: Tensor) -> Tensor:
    return torch.cat(list(part.blocks(Role(projection, 0, 0), weight, torch.Generator())))
