"""Every method: what the experts are made of, what is kept, what seeds decide."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from moe.checkpoint.reader import Checkpoint
from moe.config.tensors import tensors
from moe.errors import ConfigError
from moe.nn.build import build
from moe.surgery.calibration import Calibration
from moe.surgery.copies import Drop, Noise, VirtualGroup
from moe.surgery.cuts import Shared, Split
from moe.surgery.method import Method
from moe.surgery.methods import METHODS
from moe.surgery.options import UpcycleOptions
from moe.surgery.streamed import advance, embedded
from moe.surgery.upcycle import upcycle
from tests import tiny
from tests.examples import examples

HIDDEN, WIDTH, LAYERS = 24, 40, 3
PARTS = ("gate", "up", "down")


def options(method: Method, experts: int = 4, top_k: int = 2, **changes: Any) -> UpcycleOptions:
    return UpcycleOptions(experts, top_k, method=method, probe_tokens=16, **changes)


def logits_of(path: Path, inputs: Tensor) -> Tensor:
    checkpoint = Checkpoint.open(path)
    with torch.no_grad():
        logits: Tensor = build(checkpoint.config, checkpoint.read)(inputs).values
    return logits


def apart(one: Path, other: Path) -> float:
    inputs = tiny.tokens(97, 2, 13)
    expected = logits_of(other, inputs)
    return float((logits_of(one, inputs) - expected).abs().max() / expected.abs().max())


def weight(path: Path, part: str, expert: int | str | None = None, layer: int = 1) -> Tensor:
    """Return a projection turned so that its rows are the columns of the feed-forward."""
    middle = "" if expert is None else "shared." if expert == "shared" else f"experts.{expert}."
    found = read(path, f"model.layers.{layer}.mlp.{middle}{part}_proj.weight")
    return found.T if part == "down" else found


def router(path: Path, layer: int = 1) -> Tensor:
    return read(path, f"model.layers.{layer}.mlp.router.weight")


def read(path: Path, name: str) -> Tensor:
    checkpoint = Checkpoint.open(path)
    return checkpoint.read(next(each for each in tensors(checkpoint.config) if each.name == name))


def columns(path: Path, dense: Path, expert: int | str, layer: int = 1) -> list[int]:
    """Return which columns of the dense feed-forward an expert holds, the same in all three."""
    found = []
    for part in PARTS[:2]:
        every, held = weight(dense, part, layer=layer), weight(path, part, expert, layer)
        found.append([int((every == row).all(dim=1).nonzero().item()) for row in held])
    assert found[0] == found[1]
    down, all_down = weight(path, "down", expert, layer), weight(dense, "down", layer=layer)
    factor = down / all_down[found[0]]
    assert torch.allclose(factor, factor.flatten()[0].expand_as(factor), rtol=1e-5)
    return found[0]


def test_noise_is_of_the_size_asked_and_other_for_each_expert(dense: Path, tmp_path: Path) -> None:
    to = tmp_path / "moe"
    receipt = upcycle(dense, to, options(Noise(0.1)))
    assert receipt.distance.relative > 1e-3
    for part in PARTS:
        before = weight(dense, part)
        gaps = [weight(to, part, expert) - before for expert in range(4)]
        for gap in gaps:
            assert gap.std().item() == pytest.approx(0.1 * before.std().item(), rel=0.15)
        assert not any(torch.equal(gaps[0], gap) for gap in gaps[1:])


@pytest.mark.parametrize("method", [Noise(0.0), Drop(0.0)])
def test_nothing_changed_is_a_copy(method: Method, dense: Path, tmp_path: Path) -> None:
    receipt = upcycle(dense, tmp_path / "moe", options(method))
    assert receipt.distance.relative < 1e-5
    for part in PARTS:
        assert torch.equal(weight(tmp_path / "moe", part, 3), weight(dense, part))


@pytest.mark.parametrize("ratio", [0.25, 0.5, 1.0])
def test_drop_draws_the_same_columns_of_all_three_anew(
    ratio: float, dense: Path, tmp_path: Path
) -> None:
    to = tmp_path / "moe"
    upcycle(dense, to, options(Drop(ratio)))
    chosen = []
    for expert in range(4):
        changed = [
            (weight(to, part, expert) != weight(dense, part)).all(dim=1).nonzero().flatten()
            for part in PARTS
        ]
        assert len(changed[0]) == round(ratio * WIDTH)
        assert all(torch.equal(changed[0], other) for other in changed[1:])
        kept = torch.ones(WIDTH, dtype=torch.bool).index_fill(0, changed[0], False)
        for part in PARTS:
            assert torch.equal(weight(to, part, expert)[kept], weight(dense, part)[kept])
            before, after = (weight(p, part, e)[~kept] for p, e in ((dense, None), (to, expert)))
            assert after.std().item() == pytest.approx(before.std().item(), rel=0.25)
        chosen.append(tuple(changed[0].tolist()))
    assert len(set(chosen)) == (1 if ratio == 1.0 else 4)


@pytest.mark.parametrize("granularity", [2, 5])
@pytest.mark.parametrize("family", ["mixtral", "raymoe"])
@pytest.mark.parametrize("gate_norm", [None, 1.0])
def test_virtual_groups_keep_the_function(
    granularity: int, family: str, gate_norm: float | None, dense: Path, tmp_path: Path
) -> None:
    to = tmp_path / "moe"
    family = "skywork_moe" if gate_norm and family == "mixtral" else family
    asked = options(VirtualGroup(granularity), gate_norm=gate_norm, family=family)
    receipt = upcycle(dense, to, asked)
    assert receipt.distance.relative <= 1e-5
    assert apart(to, dense) <= 1e-5
    moe = Checkpoint.open(to).config.moe
    assert moe is not None
    assert (moe.experts, moe.top_k) == (4 * granularity, 2 * granularity)
    assert moe.scale == (granularity if family == "raymoe" else 1.0)
    size, gain = WIDTH // granularity, granularity / moe.scale
    for expert in range(moe.experts):
        run = slice(expert % granularity * size, (expert % granularity + 1) * size)
        assert torch.equal(weight(to, "up", expert), weight(dense, "up")[run])
        assert torch.equal(weight(to, "down", expert), weight(dense, "down")[run] * gain)
    rows = router(to).unflatten(0, (4, granularity))
    assert torch.equal(rows, rows[:, :1].expand_as(rows))
    assert len(rows[:, 0].unique(dim=0)) == 4  # type: ignore[no-untyped-call]


def test_half_precision_is_scaled_exactly_or_not_at_all(tmp_path: Path) -> None:
    model = tiny.llama(intermediate_size=60).to(torch.bfloat16)
    source = tiny.saved(model, tmp_path / "dense")
    with pytest.raises(ConfigError, match=r"multiplied by 3, which torch\.bfloat16 rounds"):
        upcycle(source, tmp_path / "moe", options(VirtualGroup(3)))
    for name, asked in (
        ("scaled", options(VirtualGroup(3), family="raymoe")),
        ("doubled", options(VirtualGroup(2))),
    ):
        assert upcycle(source, tmp_path / name, asked).distance.relative <= 1e-5


@pytest.mark.parametrize("by", ["random", "activation"])
@pytest.mark.parametrize("kept", [0, 1, 2])
def test_cuts_hold_every_column_once_and_add_up(
    by: Any, kept: int, dense: Path, tmp_path: Path
) -> None:
    to, routed = tmp_path / "moe", 8 - kept
    method = Shared(by, kept) if kept else Split(by)
    receipt = upcycle(dense, to, options(method, routed, routed, router="zero"))
    assert receipt.distance.relative <= 1e-5
    assert apart(to, dense) <= 1e-5
    parts: list[int | str] = [*range(routed), *(["shared"] if kept else [])]
    for layer in range(LAYERS):
        held = [columns(to, dense, part, layer) for part in parts]
        assert sorted(column for each in held for column in each) == list(range(WIDTH))
        assert {len(each) for each in held[:routed]} == {WIDTH // 8}
    assert (receipt.options["calibration"] is not None) == (by == "activation")


def test_a_cut_that_is_not_all_chosen_is_measured(dense: Path, tmp_path: Path) -> None:
    receipt = upcycle(dense, tmp_path / "moe", options(Split(), 8, 2))
    assert 1e-3 < receipt.distance.relative < 1e3
    assert receipt.options["architecture"]["expert_size"] == WIDTH // 8


def test_a_gated_shared_expert_keeps_the_function(dense: Path, tmp_path: Path) -> None:
    method = Shared(shared=2, shared_gate=True)
    asked = options(method, 6, 6, router="zero", family="qwen2_moe")
    assert upcycle(dense, tmp_path / "moe", asked).distance.relative <= 1e-5
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "moe", experts_implementation="eager"
    )
    inputs = tiny.tokens(97, 1, 9)
    with torch.no_grad():
        theirs = model.eval()(inputs).logits
    expected = logits_of(dense, inputs)
    assert ((theirs - expected).abs().max() / expected.abs().max()).item() <= 1e-5


def test_calibration_decides_the_clusters(dense: Path, tmp_path: Path) -> None:
    asked = options(Shared("activation"), 7)
    held = []
    for name, tokens in (("one", [3, 5]), ("two", [60, 90])):
        text = Calibration(name, torch.tensor(tokens).repeat(1, 40))
        receipt = upcycle(dense, tmp_path / name, asked, calibration=text)
        assert receipt.options["calibration"]["source"] == name
        held.append(columns(tmp_path / name, dense, "shared"))
    assert held[0] != held[1]
    with pytest.raises(ConfigError, match="the method copy measures nothing"):
        upcycle(dense, tmp_path / "x", UpcycleOptions(4, 2), calibration=text)


def test_a_centroid_is_near_the_columns_it_stands_for(dense: Path, tmp_path: Path) -> None:
    upcycle(dense, tmp_path / "moe", options(Split(), 4, router="centroid", router_std=0.1))
    rows = router(tmp_path / "moe")
    assert torch.allclose(rows.norm(dim=1), torch.tensor(0.1 * HIDDEN**0.5))
    means = torch.stack([weight(tmp_path / "moe", "gate", expert).mean(0) for expert in range(4)])
    assert (rows @ (means - means.mean(0)).T).argmax(dim=1).tolist() == list(range(4))


RANDOM: list[tuple[Method, str]] = [
    (Noise(), "up"),
    (Drop(), "up"),
    (Split(), "up"),
    (Shared(shared=4), "gate"),
]


@pytest.mark.parametrize(("method", "part"), RANDOM)
def test_the_seed_decides(method: Method, part: str, dense: Path, tmp_path: Path) -> None:
    asked = options(method)
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        torch.manual_seed(len(name))
        upcycle(dense, tmp_path / name, replace(asked, seed=seed))
    one, same, other = (weight(tmp_path / n, part, 2) for n in ("one", "same", "other"))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_layers_differ_in_what_is_drawn(dense: Path, tmp_path: Path) -> None:
    upcycle(dense, tmp_path / "moe", options(Split()))
    held = {tuple(columns(tmp_path / "moe", dense, 0, layer)) for layer in range(LAYERS)}
    assert len(held) == LAYERS


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("name", list(METHODS))
def test_dense_families_to_one_that_holds_them(family: str, name: str, tmp_path: Path) -> None:
    model = tiny.model(family, intermediate_size=48)
    source = tiny.saved(model, tmp_path / "dense")
    receipt = upcycle(
        source, tmp_path / "moe", options(METHODS[name](), 3 if name == "shared" else 4)
    )
    found = Checkpoint.open(tmp_path / "moe").config
    assert found.family == (
        "raymoe" if family.startswith("qwen") or name == "shared" else "mixtral"
    )
    if name in ("copy", "virtual-group"):
        assert receipt.distance.relative <= 1e-5


@pytest.mark.parametrize(
    ("source", "family", "method"),
    [
        ("qwen2", "qwen2_moe", Shared(shared_gate=True)),
        ("qwen3", "qwen3_moe", Split()),
        ("llama", "mixtral", Split()),
        ("llama", "deepseek", Shared()),
        ("mistral", "skywork_moe", VirtualGroup()),
    ],
)
def test_families_can_be_asked_for(
    source: str, family: str, method: Method, tmp_path: Path
) -> None:
    path = tiny.saved(tiny.model(source, intermediate_size=48), tmp_path / "dense")
    upcycle(path, tmp_path / "moe", options(method, 3, family=family))
    assert Checkpoint.open(tmp_path / "moe").config.family == family


@pytest.mark.parametrize(
    ("source", "family", "message"),
    [
        ("llama", "olmoe", "olmoe format always has query_key_norm = 'all', this model has None"),
        ("qwen2", "mixtral", "mixtral format cannot say attention_bias = True"),
        ("llama", "qwen2_moe", "qwen2_moe format always has shared_gate = True"),
    ],
)
def test_what_a_format_cannot_say_is_refused_with_the_reason(
    source: str, family: str, message: str, tmp_path: Path
) -> None:
    path = tiny.saved(tiny.model(source), tmp_path / "dense")
    with pytest.raises(ConfigError, match=message):
        upcycle(path, tmp_path / "moe", UpcycleOptions(4, 2, family=family))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("method", [Noise(), Drop(), VirtualGroup(), Split()])
def test_transformers_computes_the_same_mixtral(
    method: Method, dense: Path, tmp_path: Path
) -> None:
    upcycle(dense, tmp_path / "moe", options(method, router_std=0.3))
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "moe", output_loading_info=True, experts_implementation="eager"
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    inputs = tiny.tokens(97, 2, 9)
    with torch.no_grad():
        theirs = model.eval()(inputs).logits
    ours = logits_of(tmp_path / "moe", inputs)
    assert ((theirs - ours).abs().max() / ours.abs().max()).item() <= 1e-5


def test_dense_layers_sigmoids_and_a_bias_go_to_raymoe(dense: Path, tmp_path: Path) -> None:
    asked = UpcycleOptions(4, 2, first_dense=1, score="sigmoid", balance_bias=True)
    assert upcycle(dense, tmp_path / "moe", asked).distance.relative <= 1e-5
    config = Checkpoint.open(tmp_path / "moe").config
    assert config.moe is not None
    assert (config.family, config.moe_layers) == ("raymoe", (1, 2))
    assert (config.moe.score, config.moe.balance_bias) == ("sigmoid", True)
    assert torch.equal(weight(tmp_path / "moe", "up", layer=0), weight(dense, "up", layer=0))


UNSUMMED: list[tuple[Method, dict[str, Any]]] = [
    (method, {"renormalise": False, **changes})
    for method in (Noise(0.0), VirtualGroup(2), Split(), Shared(shared=4))
    for changes in (
        {"router_std": 0.002},
        {"router_std": 0.002, "score": "sigmoid"},
        {"gate_norm": 0.5},
        {"gate_norm": 1.0, "score": "sigmoid"},
    )
]


@pytest.mark.parametrize(("method", "changes"), UNSUMMED)
def test_gains_bring_experts_to_the_size_of_the_dense_feed_forward(
    method: Method, changes: dict[str, Any], dense: Path, tmp_path: Path
) -> None:
    """Family raymoe holds the gain as a scale, so without it is the same model with scale one."""
    experts = 4 if isinstance(method, Shared) else 8
    asked = options(method, experts, experts - 1, family="raymoe", **changes)
    upcycle(dense, tmp_path / "moe", asked)
    distance = _routed_distance(tmp_path / "moe", dense)
    table = json.loads((tmp_path / "moe" / "config.json").read_text())
    assert table["routed_scaling_factor"] != 1.0
    for wrong in (1.0, _gain_of_old(method, experts)):
        if wrong != pytest.approx(table["routed_scaling_factor"], rel=0.3):
            changed = table | {"routed_scaling_factor": wrong}
            (tmp_path / "moe" / "config.json").write_text(json.dumps(changed))
            assert distance < _routed_distance(tmp_path / "moe", dense)


def _gain_of_old(method: Method, experts: int) -> float:
    """Return the gain for weights that sum to one."""
    return {"virtual-group": 2.0, "split": experts, "shared": experts}.get(method.name, 1.0)


def _routed_distance(path: Path, dense: Path) -> float:
    """Return how far a middle layer lies from the dense one; only its feed-forward differs."""
    tokens = tiny.tokens(97, 1, 64)
    before, after = (Checkpoint.open(each) for each in (dense, path))
    x = embedded(before, tokens)
    expected = advance(before, 1, tokens, x)
    return float((advance(after, 1, tokens, x) - expected).norm())


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_all_experts_alike_keep_the_function_whatever_the_weights(
    score: Any, dense: Path, tmp_path: Path
) -> None:
    for number, method in enumerate((Noise(0.0), Split(), Shared(shared=4))):
        asked = options(method, 4, 4, router="zero", score=score, renormalise=False)
        receipt = upcycle(dense, tmp_path / str(number), asked)
        assert receipt.distance.relative <= 1e-5


def test_weights_that_do_not_sum_to_one_are_measured_not_promised(
    dense: Path, tmp_path: Path
) -> None:
    receipt = upcycle(dense, tmp_path / "moe", UpcycleOptions(4, 2, renormalise=False))
    assert receipt.distance.relative > 1e-2
    every = upcycle(dense, tmp_path / "all", UpcycleOptions(4, 4, renormalise=False))
    assert every.distance.relative <= 1e-5


@settings(max_examples=examples(15), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(st.integers(2, 4), st.integers(1, 9)),
    experts=st.integers(1, 4),
    top_k=st.integers(1, 4),
    seed=st.integers(0, 2**40),
)
def test_any_size_of_virtual_group_keeps_the_function(
    shape: tuple[int, int],
    experts: int,
    top_k: int,
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("any")
    model = tiny.llama(intermediate_size=shape[0] * shape[1], num_hidden_layers=2)
    source = tiny.saved(model, path / "dense")
    asked = options(VirtualGroup(shape[0]), experts, min(top_k, experts), seed=seed)
    assert upcycle(source, path / "moe", asked).distance.relative <= 1e-5
