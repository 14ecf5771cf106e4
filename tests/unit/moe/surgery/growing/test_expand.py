"""More experts: the function kept where it can be, and said where it cannot."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.upcycle import watched_peak
from moe.checkpoint.reader import Checkpoint
from moe.config.model import ModelConfig, MoeConfig
from moe.config.tensors import tensors
from moe.errors import ConfigError
from moe.surgery.growing.expand import expand
from moe.surgery.growing.options import ExpandOptions
from moe.surgery.initialise import initialise
from moe.surgery.look.routed import routed
from moe.surgery.options import UpcycleOptions
from moe.surgery.text import Text, Texts
from moe.surgery.upcycle import upcycle
from tests import tiny

FAMILIES = ("mixtral", "olmoe", "qwen2_moe", "qwen3_moe")


def loaded(path: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def transformers_logits(path: Path) -> Tensor:
    with torch.no_grad():
        logits: Tensor = loaded(path)(tiny.tokens(97, 2, 17)).logits
    return logits


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


def ours(path: Path, **changes: Any) -> Path:
    """Write a model of our own family, with weights that are large enough to tell."""
    moe = MoeConfig(**{"experts": 4, "top_k": 2, "expert_size": 12} | changes)
    config = ModelConfig(
        family="raymoe", vocab_size=97, hidden_size=24, layers=2, heads=4, kv_heads=2,
        head_size=6, ffn_size=12, norm_eps=1e-5, rope_theta=1e4, max_positions=64,
        tie_embeddings=True, initializer_range=0.2, moe=moe,
    )  # fmt: skip
    initialise(config, path, seed=1)
    if moe.balance_bias:
        file = next(path.glob("*.safetensors"))
        table = load_file(file)
        for number, name in enumerate(name for name in table if name.endswith("_correction_bias")):
            noise = torch.Generator().manual_seed(number)
            table[name] = 0.1 * torch.randn(table[name].shape, generator=noise)
        save_file(table, file, {"format": "pt"})
    return path


def texts() -> Texts:
    found = (tiny.tokens(97, 4, 33, seed=seed) for seed in (1, 2))
    return Texts(*(Text("text", rows[:, :-1], rows[:, 1:]) for rows in found))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_function_is_kept_with_a_larger_top_k_and_unlike_copies(
    family: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    source = tiny.saved(tiny.model(family).to(dtype), tmp_path / "moe")
    for experts in (8, 12):
        to = tmp_path / str(experts)
        expand(source, to, ExpandOptions(experts, keep="function"))
        assert apart(transformers_logits(to), transformers_logits(source)) < 1e-5
        grown, before = Checkpoint.open(to), Checkpoint.open(source)
        assert grown.config.moe is not None
        assert (grown.config.moe.top_k, grown.config.family) == (experts // 2, family)
        assert grown.dtype == dtype
        downs = [t for t in tensors(grown.config) if t.role.part == "down" and t.role.layer == 1]
        copies = [grown.read(downs[n]).double() for n in range(1, experts, 4)]
        parent = before.read(_down(before.config, layer=1, expert=1)).double()
        assert torch.equal(sum(copies[1:], copies[0]), parent * len(copies)), "to the last bit"
        changed = copies[0] != copies[1]
        assert changed.float().mean() > 0.8
        spread = (copies[0] - copies[1])[changed].std() / parent.std()
        assert 0.05 < spread < 0.2


def _down(config: ModelConfig, layer: int, expert: int) -> Any:
    found = (t for t in tensors(config) if t.role.part == "down" and t.role.layer == layer)
    return next(t for t in found if t.role.expert == expert)


@pytest.mark.parametrize(
    "changes",
    [
        {"score": "sigmoid", "renormalise": False},
        {"score": "sigmoid", "balance_bias": True, "scale": 2.0},
        {"renormalise": False},
        {"balance_bias": True},
        {"balance_bias": True, "renormalise": False, "experts": 8, "groups": 2, "top_groups": 1},
        {"softmax_after": True, "top_k": 1},
        {"gate_norm": 0.7},
        {"gate_norm": 1.5, "score": "sigmoid", "renormalise": False, "experts": 5},
        {"experts": 8, "groups": 4, "top_groups": 2},
        {"experts": 6, "groups": 2, "group_best": 1, "shared_size": 12, "shared_gate": True},
        {"dense_layers": (0,), "top_k": 3},
        {"experts": 1, "top_k": 1, "gate_norm": 1.0},
    ],
)
def test_every_router_keeps_the_function(changes: dict[str, Any], tmp_path: Path) -> None:
    source = ours(tmp_path / "moe", **changes)
    before = Checkpoint.open(source).config.experts
    for times in (2, 3):
        options = ExpandOptions(times * before, keep="function")
        receipt = expand(source, tmp_path / str(times), options)
        assert receipt.distance.relative < 1e-5
        assert receipt.distance.same_argmax == 1.0
        assert not receipt.notes


def test_a_skywork_moe_says_its_new_deviation_in_its_own_keys(tmp_path: Path) -> None:
    """Squares S of three logits: their variance is S / 2; there twice, it is 2 S / 5."""
    dense = tiny.saved(tiny.llama(), tmp_path / "dense")
    upcycle(dense, tmp_path / "moe", UpcycleOptions(3, 2, gate_norm=1.5))
    receipt = expand(tmp_path / "moe", tmp_path / "more", ExpandOptions(6, keep="function"))
    assert receipt.distance.relative < 1e-5
    table = json.loads((tmp_path / "more" / "config.json").read_text())
    assert table["model_type"] == "skywork_moe"
    assert table["num_experts_per_tok"] == 4
    assert table["moe_gate_norm_std"] == pytest.approx(1.5 * (4 / 5) ** 0.5)
    assert (tmp_path / "more" / "modeling_skywork_moe.py").exists()


def test_tokens_that_are_hashed_find_a_copy_of_their_expert(tmp_path: Path) -> None:
    source = ours(tmp_path / "moe", top_k=1, hashed=True)
    receipt = expand(source, tmp_path / "more", ExpandOptions(12))
    assert receipt.distance.relative < 1e-6
    with pytest.raises(ConfigError, match=r"hashes tokens .* remove --by"):
        expand(source, tmp_path / "x", ExpandOptions(8, keep="function"))


def test_merged_experts_are_not_grown(tmp_path: Path) -> None:
    source = ours(tmp_path / "moe", top_k=1, expert_size=12, segment_tokens=4)
    with pytest.raises(ConfigError, match="upcycle the dense model to more experts instead"):
        expand(source, tmp_path / "more", ExpandOptions(8))


def test_at_the_same_top_k_the_function_moves_and_the_receipt_says_why(tmp_path: Path) -> None:
    source = tiny.saved(tiny.mixtral(), tmp_path / "moe")
    receipt = expand(source, tmp_path / "more", ExpandOptions(8), texts())
    grown = Checkpoint.open(tmp_path / "more").config
    assert grown.moe is not None
    assert (grown.moe.experts, grown.moe.top_k) == (8, 2)
    assert receipt.distance.relative > 0.05
    (note,) = receipt.notes
    assert "a token still takes 2 experts" in note
    assert "--keep function keeps it" in note
    assert receipt.parents == dict.fromkeys(range(3), (0, 1, 2, 3, 0, 1, 2, 3))
    before, after = (Checkpoint.open(tmp_path / name) for name in ("moe", "more"))
    for tensor in tensors(before.config):
        if tensor.role.part == "router":
            rows = next(t for t in tensors(after.config) if t.role == tensor.role)
            assert after.read(rows)[:4].equal(before.read(tensor))
            noise = after.read(rows)[4:] - before.read(tensor)
            assert 0.03 < noise.std() / before.read(tensor).std() < 0.08
        else:
            assert after.read(tensor).equal(before.read(tensor)), "experts keep their numbers"


def test_the_receipt_is_true(tmp_path: Path) -> None:
    source, to, text = tiny.saved(tiny.mixtral(), tmp_path / "moe"), tmp_path / "more", texts()
    receipt = expand(source, to, ExpandOptions(8, seed=3), text)
    table = json.loads((to / "receipt.json").read_text())
    for directory, key in ((source, "source_files"), (to, "files")):
        for name, digest in table[key].items():
            assert sha256((directory / name).read_bytes()).hexdigest() == digest
    assert set(table["files"]) == {path.name for path in to.iterdir()} - {"receipt.json"}
    assert table["options"]["seed"] == 3
    assert table["options"]["calibration"]["tokens"] == 4 * 32
    found = receipt.held_out
    assert found is not None
    for path, loss in ((source, found.loss_before), (to, found.loss_after)):
        with torch.no_grad():
            logits = loaded(path)(text.held_out.tokens).logits
        expected = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), text.held_out.labels.flatten()
        )
        assert loss == pytest.approx(expected.item(), rel=1e-5)


def test_by_load_the_busiest_experts_are_copied(tmp_path: Path) -> None:
    source, text = tiny.saved(tiny.mixtral(), tmp_path / "moe"), texts()
    receipt = expand(source, tmp_path / "more", ExpandOptions(7, by="load"), text)
    with torch.no_grad():
        output = loaded(source)(text.calibration.tokens, output_router_logits=True)
    for layer, logits in enumerate(output.router_logits):
        counts = torch.bincount(logits.topk(2, dim=-1).indices.flatten(), minlength=4).tolist()
        expected = _by_merit(counts, 7)
        assert receipt.parents[layer] == expected


def test_by_gradient_those_that_the_loss_would_change_most(tmp_path: Path) -> None:
    """Beside transformers' autograd, whose experts are two tensors of a layer."""
    source, text = tiny.saved(tiny.mixtral(), tmp_path / "moe"), texts()
    receipt = expand(source, tmp_path / "more", ExpandOptions(6, by="gradient"), text)
    model, given = loaded(source), text.calibration
    logits = model(given.tokens).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), given.labels.flatten()).backward()
    for layer in range(3):
        experts = model.model.layers[layer].mlp.experts
        squares = [
            sum(float(p.grad[n].double().square().sum()) for p in experts.parameters())
            for n in range(4)
        ]
        assert receipt.parents[layer] == _by_merit(squares, 6)


def _by_merit(merits: list[float], wanted: int) -> tuple[int, ...]:
    """Return the parents, where every copy goes to who has most left for each of its copies."""
    found = list(range(len(merits)))
    while len(found) < wanted:
        left = {n: merits[n] / found.count(n) for n in range(len(merits))}
        found.append(max(left, key=lambda n: left[n]))
    return tuple(found)


def test_copies_that_are_apart_take_different_tokens(tmp_path: Path) -> None:
    source, text = tiny.saved(tiny.mixtral(), tmp_path / "moe"), texts()
    plain = expand(source, tmp_path / "plain", ExpandOptions(8), text)
    receipt = expand(source, tmp_path / "apart", ExpandOptions(8, apart=True), text)
    assert plain.held_out is not None
    assert receipt.held_out is not None
    moved = [each.distance.mean_absolute for each in (plain.held_out, receipt.held_out)]
    assert moved[1] < moved[0] / 4
    assert receipt.held_out.distance.same_argmax > 0.9
    tokens, (before, after) = (
        text.held_out.tokens,
        [Checkpoint.open(tmp_path / name) for name in ("moe", "apart")],
    )
    first, other = next(routed(before, tokens)), next(routed(after, tokens))
    chosen = other.routing.experts % 4
    same = (chosen.sort(dim=1).values == first.routing.experts.sort(dim=1).values).all(dim=1)
    assert same.float().mean() > 0.85
    weights = [each.routing.weights.sort(dim=1).values[same] for each in (first, other)]
    assert torch.allclose(*weights, atol=1e-4)
    share = (other.routing.experts < 4).float().mean()
    assert 0.15 < share < 0.85, "both copies have tokens"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"experts": 4}, "has 4 experts, 4 are asked for; give more, such as --experts 8"),
        ({"experts": 6}, "not equally many copies of 4; give a multiple, such as --experts 8"),
        ({"experts": 8, "deviation": 0.0}, "the same gradients and stay equal"),
        ({"experts": 8, "deviation": -1.0}, "deviation is -1.0; give one from 0 to 10"),
        ({"experts": 8, "by": "size"}, "by is 'size'; choose alike or load or gradient"),
        ({"experts": 8, "by": "load", "keep": "function"}, "equally many copies of every expert"),
        ({"experts": 8, "apart": True, "keep": "function"}, "choose one of the two"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    source = tiny.saved(tiny.mixtral(), tmp_path / "moe")
    with pytest.raises(ConfigError, match=message):
        expand(source, tmp_path / "x", ExpandOptions(**options))
    assert list(tmp_path.iterdir()) == [source]


def test_dense_models_and_scores_that_apart_would_change_are_refused(tmp_path: Path) -> None:
    dense = tiny.saved(tiny.llama(), tmp_path / "dense")
    with pytest.raises(ConfigError, match="dense llama model, expand copies experts; choose"):
        expand(dense, tmp_path / "x", ExpandOptions(8))
    for changes, what in (({"score": "sigmoid"}, "sigmoid"), ({"gate_norm": 1.0}, "gate norm")):
        source = ours(tmp_path / what, **changes)
        with pytest.raises(ConfigError, match=f"which {what}.* would not ignore"):
            expand(source, tmp_path / "x", ExpandOptions(8, apart=True))


def test_memory_is_that_of_a_few_blocks(tmp_path: Path) -> None:
    sizes = {"vocab_size": 1000, "hidden_size": 256, "intermediate_size": 2048}
    source = tiny.saved(tiny.mixtral(**sizes, num_hidden_layers=2), tmp_path / "moe")
    options = ExpandOptions(64, by="load")
    peak = watched_peak(expand, source, tmp_path / "more", options)
    written = sum(path.stat().st_size for path in (tmp_path / "more").glob("*.safetensors"))
    assert peak < written / 3
