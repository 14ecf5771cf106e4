"""Our tensors are the right parts of what transformers holds, for every family it knows."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.remote_code.modeling_deepseek import DeepseekForCausalLM
from moe.checkpoint.remote_code.modeling_raymoe import RaymoeForCausalLM
from moe.checkpoint.remote_code.modeling_skywork import SkyworkForCausalLM
from moe.checkpoint.remote_code.modeling_skywork_moe import SkyworkForCausalLM as SkyworkMoe
from moe.checkpoint.universal.parameters import STACKING, parameters
from moe.config.families import write_config
from tests import architectures, tiny
from tests.examples import examples

OURS: dict[str, Any] = {
    "skywork": SkyworkForCausalLM,
    "skywork_moe": SkyworkMoe,
    "deepseek": DeepseekForCausalLM,
    "raymoe": RaymoeForCausalLM,
}


@pytest.mark.parametrize("family", tiny.OF_FAMILY)
def test_parts_are_what_transformers_writes_for_them(family: str, tmp_path: Path) -> None:
    model = tiny.model(family)
    checkpoint = Checkpoint.open(tiny.saved(model, tmp_path / "model"))
    held = dict(model.named_parameters())
    found = parameters(checkpoint.config, stacked=family in STACKING)
    assert {each.name: each.shape for each in found} == {n: p.shape for n, p in held.items()}
    for each in found:
        for part in each.parts:
            torch.testing.assert_close(
                part.of(held[each.name].detach()), checkpoint.read(part.tensor), rtol=0, atol=0
            )


@pytest.mark.parametrize("family", OURS)
@settings(max_examples=examples(15))
@given(data=st.data())
def test_code_that_travels_with_a_checkpoint_holds_these_parameters(
    family: str, data: st.DataObject
) -> None:
    config = data.draw(getattr(architectures, family)())
    kind = OURS[family]
    model = kind(kind.config_class(**write_config(config, "float32")))
    found = parameters(config, stacked=family in STACKING)
    trained = {each.name: each.shape for each in found if each.trained}
    assert trained == {name: tuple(value.shape) for name, value in model.named_parameters()}
    buffers = {each.name for each in found if not each.trained}
    assert buffers <= {name for name, _ in model.named_buffers()}


def test_experts_apart_have_the_names_of_the_files(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tiny.saved(tiny.mixtral(), tmp_path / "model"))
    names = {each.name for each in parameters(checkpoint.config, stacked=False)}
    assert names == checkpoint.shards.names
