"""What a quick measuring cuts from a model, and what it keeps."""

from dataclasses import replace

from actors.profiling.bench import alone, parameters, parts_of
from actors.profiling.quick import quick, stand_in
from moe.config.presets import PRESETS
from tests import plans


def test_a_small_model_keeps_its_blocks_and_loses_rows_of_its_vocabulary() -> None:
    config = plans.with_experts(plans.SMOLLM2, 4)
    assert stand_in(config) == replace(config, vocab_size=29128)
    assert stand_in(replace(config, vocab_size=97)).vocab_size == 97


def test_every_preset_can_be_measured_in_little_memory() -> None:
    """The widths of a product stay; a part of any model has less than a gigabyte of weights."""
    for preset in PRESETS.values():
        config = preset.config
        asked = quick(config, 256, (1,), 1, 1, "bf16")
        small = asked.config
        assert (small.hidden_size, small.ffn_size) == (config.hidden_size, config.ffn_size)
        if small.moe is not None and config.moe is not None:
            assert small.moe.expert_size == config.moe.expert_size
            assert small.moe.top_k == config.moe.top_k
        for part in parts_of(small):
            assert parameters(*alone(small, part, asked.chain_bytes)) < 0.5e9
