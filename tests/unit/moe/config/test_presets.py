"""Presets against what the papers print: parameters, active parameters, FLOPs."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from moe.config.model import ModelConfig
from moe.config.presets import PRESETS, preset
from moe.config.share import Share, whole
from moe.config.tensors import active_parameters, parameters
from moe.errors import ConfigError
from moe.nn.decoder import Decoder

EXACT = {
    "deepseek-moe-16b": (16.376, 2.829),
    "deepseek-moe-145b": (144.61, 22.19),
    "skywork-moe-146b": (146.36, 22.69),
}
"""Billions, total and active, to the last digit given."""

PRINTED = {
    "deepseek-moe-2b": (2.0, 0.3),
    "deepseek-moe-16b": (16.4, 2.8),
    "deepseek-moe-145b": (144.6, 22.2),
    "deepseek-moe-142b": (142.3, 13.6),
    "skywork-moe-146b": (146, 22),
    "skywork-13b": (13.85, 13.85),
    "dense": (0.2, 0.2),
    "hash": (2.0, 0.2),
    "switch": (2.0, 0.2),
    "gshard": (2.0, 0.3),
    "lory": (1.8, 0.3),
    "gshard-137b": (136.5, 21.6),
}
"""As the papers round, now up and now down; 142B: see the docstring of the presets."""

EXPERTS = {
    "dense-x4": (0.47, 0.47),
    "dense-x16": (1.89, 1.89),
    "gshard-x1.2": (2.3, 0.28),
    "gshard-x1.5": (2.83, 0.35),
}
"""Billions in feed-forwards alone, total and active: DeepSeekMoE tables 2 and 8."""

TERAFLOPS = {
    "dense": 2.9,
    "dense-x16": 24.6,
    "hash": 2.9,
    "switch": 2.9,
    "gshard": 4.3,
    "gshard-x1.5": 5.8,
    "deepseek-moe-2b": 4.3,
    "deepseek-moe-16b": 74.4,
    "gshard-137b": 572.7,
    "deepseek-moe-145b": 585.6,
    "deepseek-moe-142b": 374.6,
}
"""Of one sequence of 2048 or 4096 tokens, forward and backward."""


def first_layers(config: ModelConfig) -> dict[bool, int]:
    """Return the first layer of each kind, with and without experts."""
    return {config.has_experts(layer): layer for layer in reversed(range(config.layers))}


def held(config: ModelConfig, share: Share) -> tuple[int, Fraction]:
    """Count the module's own parameters, all and those a token passes; nothing is allocated."""
    reached = Fraction(config.moe.top_k, config.moe.experts) if config.moe else Fraction(1)
    with torch.device("meta"):
        sizes = {name: each.numel() for name, each in Decoder(config, share).named_parameters()}
    active = sum(size * (reached if ".experts." in name else 1) for name, size in sizes.items())
    return sum(sizes.values()), Fraction(active)


def on_meta(config: ModelConfig) -> tuple[int, Fraction]:
    """Count both ends, and one layer of each kind times its number."""
    share = whole(config)
    total, active = held(config, replace(share, layers=(0, 0)))
    for kind, layer in first_layers(config).items():
        alike = sum(config.has_experts(other) == kind for other in range(config.layers))
        block = replace(share, layers=(layer, layer + 1), embedding=False, head=False)
        more, passed = held(config, block)
        total, active = total + alike * more, active + alike * passed
    return total, active


def outside_feed_forwards(config: ModelConfig) -> int:
    attention = 4 * config.hidden_size * config.heads * config.head_size
    norms = config.hidden_size * (2 * config.layers + 1)
    routers = config.experts * config.hidden_size * len(config.moe_layers)
    ends = 2 * config.vocab_size * config.hidden_size
    return config.layers * attention + norms + routers + ends


@pytest.mark.parametrize("name", EXACT)
def test_parameters_are_those_of_the_papers(name: str) -> None:
    config = PRESETS[name].config
    total, active = EXACT[name]
    digits = 3 if name == "deepseek-moe-16b" else 2
    assert round(parameters(config) / 1e9, digits) == total
    assert round(active_parameters(config) / 1e9, digits) == active


@pytest.mark.parametrize("name", PRINTED)
def test_parameters_round_to_what_is_printed(name: str) -> None:
    config = PRESETS[name].config
    total, active = PRINTED[name]
    last_digit = 1 if isinstance(total, int) else 0.1
    assert parameters(config) / 1e9 == pytest.approx(total, abs=last_digit)
    assert active_parameters(config) / 1e9 == pytest.approx(active, abs=last_digit)


@pytest.mark.parametrize("name", EXPERTS)
def test_feed_forwards_are_as_large_as_is_printed(name: str) -> None:
    config = PRESETS[name].config
    total, active = EXPERTS[name]
    rest = outside_feed_forwards(config)
    assert (parameters(config) - rest) / 1e9 == pytest.approx(total, rel=0.02)
    assert (active_parameters(config) - rest) / 1e9 == pytest.approx(active, rel=0.02)


@pytest.mark.parametrize("name", TERAFLOPS)
def test_flops_are_those_of_the_papers(name: str) -> None:
    """6 a parameter and token but for the embedding, and scores and values over all positions."""
    config = PRESETS[name].config
    length = config.max_positions
    products = active_parameters(config) - config.vocab_size * config.hidden_size
    attention = 12 * config.layers * length * config.hidden_size
    flops = length * (6 * products + attention)
    assert flops / 1e12 == pytest.approx(TERAFLOPS[name], rel=0.025)


@pytest.mark.parametrize("name", PRESETS)
def test_the_module_has_the_parameters_of_the_table(name: str) -> None:
    config = PRESETS[name].config
    assert on_meta(config) == (parameters(config), active_parameters(config))


def test_layers_of_a_kind_are_alike() -> None:
    config = PRESETS["deepseek-moe-16b"].config
    assert held(config, whole(config)) == on_meta(config)


def test_every_preset_is_compared() -> None:
    assert set(PRINTED) | set(EXPERTS) == set(PRESETS)


def test_the_nearest_name_is_offered() -> None:
    assert preset("hash") is PRESETS["hash"]
    with pytest.raises(ConfigError, match="no preset named deepseek-16b; did you mean deepseek-"):
        preset("deepseek-16b")
    with pytest.raises(ConfigError, match="no preset named x; known: deepseek-moe-2b, "):
        preset("x")
