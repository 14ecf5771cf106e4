"""The code that travels with a skywork_moe directory: transformers computes our logits with it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.remote import copy_remote_code
from moe.checkpoint.remote_code.configuration_skywork_moe import SkyworkMoeConfig
from moe.checkpoint.remote_code.modeling_skywork_moe import SkyworkForCausalLM
from moe.config.families import read_config, write_config
from moe.config.model import MoeConfig
from moe.nn.build import build
from moe.surgery.upcycle import UpcycleOptions, upcycle
from tests import tiny

INPUTS = tiny.tokens(97, 2, 11)
ALONE = """
import sys, torch, transformers
model, report = transformers.AutoModelForCausalLM.from_pretrained(
    sys.argv[1], trust_remote_code=True, output_loading_info=True
)
assert not any(report.values()), report
inputs, logits = torch.load(sys.argv[2])
with torch.no_grad():
    apart = (model(inputs).logits - logits).abs().max() / logits.abs().max()
assert apart <= 1e-5, apart
"""


def skywork(path: Path, gate_norm: float | None = 1.0, tied: bool = True) -> Path:
    """Return a directory whose experts and gates all differ."""
    source = tiny.saved(tiny.llama(tie_word_embeddings=tied), path / "dense")
    options = UpcycleOptions(4, 2, gate_norm, router_std=0.5, family="skywork_moe")
    upcycle(source, path / "moe", options)
    (file,) = (path / "moe").glob("model-*.safetensors")
    generator = torch.Generator().manual_seed(0)
    shaken = {
        name: value + 0.1 * torch.randn(value.shape, generator=generator)
        for name, value in load_file(file).items()
    }
    save_file(shaken, file, metadata={"format": "pt"})
    return path / "moe"


def our_logits(path: Path) -> torch.Tensor:
    checkpoint = Checkpoint.open(path)
    with torch.no_grad():
        logits: torch.Tensor = build(checkpoint.config, checkpoint.read)(INPUTS).values
    return logits


@pytest.mark.parametrize("gate_norm", [None, 0.5, 1.0])
@pytest.mark.parametrize("tied", [False, True])
def test_it_computes_our_logits(gate_norm: float | None, tied: bool, tmp_path: Path) -> None:
    path = skywork(tmp_path, gate_norm, tied)
    model, report = SkyworkForCausalLM.from_pretrained(path, output_loading_info=True)
    assert not any(report.values())
    with torch.no_grad():
        theirs = model.eval()(INPUTS).logits
    ours = our_logits(path)
    assert (theirs - ours).abs().max() <= 1e-5 * ours.abs().max()
    model.save_pretrained(tmp_path / "again")
    assert Checkpoint.open(tmp_path / "again").config == Checkpoint.open(path).config
    assert torch.equal(our_logits(tmp_path / "again"), ours)


def test_the_norm_is_felt(tmp_path: Path) -> None:
    path = skywork(tmp_path)
    model = SkyworkForCausalLM.from_pretrained(path).eval()
    for layer in model.model.layers:
        layer.mlp.gate.norm = None
    with torch.no_grad():
        assert (model(INPUTS).logits - our_logits(path)).abs().max() > 1e-2


def test_any_process_loads_the_directory_by_itself(tmp_path: Path) -> None:
    path = skywork(tmp_path)
    torch.save((INPUTS, our_logits(path)), tmp_path / "expected.pt")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(path), str(tmp_path / "expected.pt")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_released_config_is_understood() -> None:
    """It has no top-k and its experts as a list."""
    config = SkyworkMoeConfig(num_experts=[16], moe_use_logits_norm=True, hidden_size=64)
    ours = read_config(config.to_dict())
    assert ours.moe == MoeConfig(16, 2, config.intermediate_size, 1.0)


def test_every_file_the_config_names_is_copied(tmp_path: Path) -> None:
    config = Checkpoint.open(skywork(tmp_path)).config
    copy_remote_code("skywork_moe", tmp_path)
    for target in write_config(config, "float32")["auto_map"].values():
        module, name = target.split(".")
        assert f"class {name}(" in (tmp_path / f"{module}.py").read_text()
        assert (tmp_path / "moe" / f"{module}.py").is_file()


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_other_families_carry_no_code(family: str, tmp_path: Path) -> None:
    copy_remote_code(family, tmp_path)
    assert list(tmp_path.iterdir()) == []
