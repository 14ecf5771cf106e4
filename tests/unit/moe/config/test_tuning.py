"""What of a model a run trains: in the table of tensors, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moe.config.model import ModelConfig
from moe.config.run import RunConfig, dump_run, parse_run, tuned_model
from moe.config.tensors import held_by, saved, tensors
from moe.errors import ConfigError
from moe.planning.layout.buckets import bucket_layouts
from tests import runs
from tests.routed import routed

LORA: dict[str, Any] = {"rank": 2, "alpha": 6.0}
SHARED = routed(2, shared_size=20, dense_layers=(0,), balance_bias=True)


def run_of(**train: Any) -> RunConfig:
    return runs.run_config(Path("model"), train=train)


def tuned(config: ModelConfig, **train: Any) -> ModelConfig:
    return tuned_model(run_of(**train), config)


def test_without_either_the_model_is_as_it_was() -> None:
    assert tuned(SHARED) is SHARED
    assert list(saved(SHARED)) == list(tensors(SHARED))


def test_frozen_tensors_are_in_no_bucket_and_all_are_saved() -> None:
    config = tuned(SHARED, freeze=["model.embed_tokens.*", "model.layers.?.mlp.experts.1.*"])
    frozen = [each.name for each in tensors(config) if each.role.frozen]
    assert len(frozen) == 4
    assert not any(each.role.trained for each in tensors(config) if each.role.frozen)
    assert [each.name for each in saved(config)] == [each.name for each in tensors(SHARED)]
    share = runs.plan(config, (2,)).share(runs.plan(config, (2,)).seats.seat(0))
    layouts = bucket_layouts(config, share, 2, 1, narrow=True)
    in_buckets = {slot.part.name for layout in layouts for slot in layout.slots}
    assert in_buckets == {each.name for each in tensors(SHARED) if each.role.trained} - {*frozen}


def test_with_lora_the_factors_alone_are_trained_and_saved() -> None:
    targets = ["attention", "feed_forward", "experts", "router"]
    config = tuned(SHARED, lora=LORA | {"targets": targets})
    shapes = {each.name: each.shape for each in tensors(config) if each.role.factor}
    assert [each.name for each in saved(config)] == [*shapes]
    assert {each.name for each in tensors(config) if each.role.trained} == set(shapes)
    assert all(each.role.exact for each in saved(config))
    at = "model.layers.1.mlp."
    assert shapes[f"{at}experts.3.adapter.lora_A"] == (2, 24)
    assert shapes[f"{at}experts.3.adapter.lora_B"] == (40, 2)
    assert shapes[f"{at}experts.3.down_proj.adapter.lora_A"] == (2, 20)
    assert shapes[f"{at}shared.up_proj.adapter.lora_B"] == (20, 2)
    assert shapes["model.layers.0.mlp.down_proj.adapter.lora_A"] == (2, 40)
    assert shapes["model.layers.0.self_attn.k_proj.adapter.lora_B"] == (24, 2)
    assert f"{at}router.adapter.lora_A" in shapes


def test_some_projections_alone() -> None:
    config = tuned(SHARED, lora=LORA | {"targets": ["q_proj", "down_proj"]})
    owners = {each.name.partition(".adapter")[0] for each in saved(config)}
    layers = {f"model.layers.{layer}.self_attn.q_proj" for layer in range(2)}
    assert owners == layers | {f"model.layers.{n}.down_proj" for n in ("0.mlp", "1.mlp.shared")}


def test_a_gang_cuts_factors_as_it_cuts_their_weights() -> None:
    config = tuned(SHARED, lora=LORA | {"targets": ["attention", "experts"]})
    plan = runs.plan(config, (2,), (2, 1), (3, 1))
    first, second = (
        {each.name: each for each in held_by(config, plan.share(seat))} for seat in plan.seats
    )
    at = "model.layers.1.self_attn."
    whole, cut = f"{at}q_proj.adapter.lora_A", f"{at}q_proj.adapter.lora_B"
    assert first[whole].dim is second[whole].dim is None
    assert (first[cut].held_shape, second[cut].held_shape) == ((32, 2), (16, 2))
    assert second[f"{at}o_proj.adapter.lora_A"].held_shape == (2, 16)
    assert second[f"{at}o_proj.adapter.lora_B"].held_shape == (24, 2)
    assert "model.layers.1.mlp.experts.3.adapter.lora_B" not in first
    assert "model.layers.1.mlp.experts.3.adapter.lora_B" in second


def test_scales() -> None:
    lora = run_of(lora=LORA).train.lora
    assert lora is not None
    assert lora.lora.scale == 3.0
    stable = run_of(lora=LORA | {"rank": 4, "rslora": True}).train.lora
    assert stable is not None
    assert stable.lora.scale == 3.0


def test_a_run_file_says_the_same_when_it_is_read_again() -> None:
    run = run_of(lora=LORA | {"targets": ["router", "attention"], "start": "adapter"})
    assert parse_run(run.model_dump(mode="json"), "again") == run
    assert '"targets"' in dump_run(run)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"freeze": ["model.embed_token.*"]}, r"near it are model\.embed_tokens\.weight"),
        ({"freeze": ["model.layers.9.*"]}, r"near it are .*model\.layers\.\*"),
        ({"freeze": ["model.*"]}, "nothing is left to train"),
        ({"lora": LORA | {"targets": ["router"]}}, "'router', which model has none of; it has att"),
    ],
)
def test_what_has_no_effect_on_the_model(train: dict[str, Any], message: str) -> None:
    dense = replace(SHARED, moe=None)
    with pytest.raises(ConfigError, match=message):
        tuned(dense, **train)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"lora": LORA, "freeze": ["x"]}, "freeze has no effect"),
        ({"freeze": ["x"], "orthogonal": {}}, "orthogonal projects the updates"),
        ({"lora": LORA | {"targets": ["router", "router"]}}, "names a target twice"),
        ({"lora": LORA | {"targets": ["attention", "q_proj"]}}, "names a target twice"),
        ({"lora": LORA | {"targets": []}}, "at least 1"),
        (
            {"lora": LORA | {"targets": ["head"]}},
            "'attention', 'feed_forward', 'experts', 'router'",
        ),
        ({"lora": {"rank": 0, "alpha": 1.0}}, "greater than 0"),
    ],
)
def test_what_no_run_can_mean(train: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_of(**train)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"lora": LORA | {"targets": ["experts"]}}, "merged for segments of tokens, and have no"),
        ({"freeze": ["*.1.mlp.experts.?.down_proj.*"]}, "some matrices of the experts of layer 1"),
    ],
)
def test_experts_that_are_merged(train: dict[str, Any], message: str) -> None:
    merged = routed(2, top_k=1, expert_size=40, segment_tokens=4)
    assert tuned(merged, freeze=["*.mlp.experts.*"]).tuning is not None
    with pytest.raises(ConfigError, match=message):
        tuned(merged, **train)


def test_a_frozen_bias_does_not_move() -> None:
    bias = {"loss": "skywork", "coefficient": {"type": "bias", "rate": 0.25}}
    run = runs.run_config(Path("model"), train={"lora": LORA}, balance=bias)
    with pytest.raises(ConfigError, match=r"moves model.layers.1.mlp.router.balance_bias"):
        tuned_model(run, SHARED)
