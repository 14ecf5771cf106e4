"""Smaller models of every family: against transformers, against masked originals, by hand."""

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from benchmarks.upcycle import memory_bar, watched_peak
from moe.checkpoint.card.steps import RECEIPT
from moe.checkpoint.reader import Checkpoint
from moe.config.tensors import tensors
from moe.errors import ConfigError, StorageError
from moe.nn.build import build
from moe.surgery.shrink.compress import Compressed, compress
from moe.surgery.shrink.merge import Merge
from moe.surgery.shrink.method import ShrinkMethod
from moe.surgery.shrink.options import CompressOptions
from moe.surgery.shrink.prune import Prune
from moe.surgery.text import Text, Texts
from tests import exports, mixtures, tiny
from tests.routed import routed

MEASURED: list[ShrinkMethod] = [
    Prune("random"),
    Prune("traffic"),
    Prune("reach"),
    Merge("weights", "uniform"),
    Merge("outputs", "usage"),
    Merge("weights", "least-squares"),
]


def text(seed: int, rows: int = 3) -> Text:
    drawn = tiny.tokens(97, rows, 17, seed=seed)
    labels = torch.full_like(drawn, -100)
    labels[:, :-1] = drawn[:, 1:]
    return Text("random", drawn, labels)


TEXTS = Texts(text(1, rows=9), text(2))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: mixtures.made(name, folder / name) for name in mixtures.FAMILIES}


@pytest.mark.parametrize("method", MEASURED, ids=lambda each: "-".join(_words(each)))
@pytest.mark.parametrize("family", mixtures.FAMILIES)
def test_every_family_is_shrunk_and_computes_what_the_folds_say(
    family: str, method: ShrinkMethod, models: dict[str, Path], tmp_path: Path
) -> None:
    source, to = models[family], tmp_path / "small"
    done = compress(source, to, CompressOptions(4, method, seed=3), TEXTS)
    large, small = Checkpoint.open(source), Checkpoint.open(to)
    assert small.config.experts == 4
    assert small.config.family == large.config.family
    _check_tensors(large, small, done)
    _check_receipt(source, to, done)


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "deepseek", "skywork_moe"])
def test_transformers_loads_the_smaller_model_and_computes_the_same(
    family: str, models: dict[str, Path], tmp_path: Path
) -> None:
    to = tmp_path / "small"
    compress(models[family], to, CompressOptions(3, Merge("outputs", "usage")), TEXTS)
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(
        to, output_loading_info=True, trust_remote_code=True, dtype=torch.float32
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    checkpoint, tokens = Checkpoint.open(to), tiny.tokens(97, 2, 11)
    with torch.no_grad():
        ours = build(checkpoint.config, checkpoint.read)(tokens).values
        torch.testing.assert_close(ours, theirs(tokens).logits, rtol=1e-4, atol=1e-4)


def test_a_pruned_model_is_the_original_whose_router_cannot_see_the_others(
    models: dict[str, Path], tmp_path: Path
) -> None:
    """Mixtral renormalises, so logits of minus infinity are the same as no expert."""
    done = compress(models["mixtral"], tmp_path / "small", CompressOptions(3, Prune()), TEXTS)
    large, small = Checkpoint.open(models["mixtral"]), Checkpoint.open(tmp_path / "small")
    masked = build(large.config, large.read)
    tokens = tiny.tokens(97, 2, 11)
    for layer, folds in done.folds.items():
        kept = [fold.experts[0] for fold in folds]
        gone = [number for number in range(6) if number not in kept]

        def blind(module: Any, given: Any, routing: Any, gone: list[int] = gone) -> Any:
            from moe.nn.router import choose

            logits = routing.logits.index_fill(1, torch.tensor(gone), -torch.inf)
            return choose(logits, module.config)

        masked.mixture(layer).router.register_forward_hook(blind)
    with torch.no_grad():
        expected = masked(tokens).values
        found = build(small.config, small.read)(tokens).values
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_traffic_and_reach_keep_what_they_say(models: dict[str, Path], tmp_path: Path) -> None:
    from moe.surgery.look.look import look

    looked = list(look(Checkpoint.open(models["deepseek"]), TEXTS.calibration.tokens))
    for by in ("traffic", "reach"):
        options = CompressOptions(2, Prune(by))  # type: ignore[arg-type]
        done = compress(models["deepseek"], tmp_path / by, options, TEXTS)
        for layer in looked:
            assert layer.traffic is not None
            merit = layer.traffic.load if by == "traffic" else layer.traffic.reach
            best = sorted(range(6), key=lambda expert: -merit[expert])[:2]
            kept = [fold.experts[0] for fold in done.folds[layer.layer]]
            assert kept == sorted(best)


def test_merging_copies_gives_back_what_was_copied(tmp_path: Path) -> None:
    base = tiny.mixtral(num_local_experts=3, num_experts_per_tok=1)
    twice = tiny.mixtral(num_local_experts=6, num_experts_per_tok=1)
    once = base.state_dict()
    twice.load_state_dict(
        {
            name: value[[0, 1, 2, 0, 1, 2]] if ".experts." in name or ".gate." in name else value
            for name, value in once.items()
        }
    )
    source, to = tiny.saved(twice, tmp_path / "twice"), tmp_path / "once"
    for number, mix in enumerate(("uniform", "usage", "least-squares")):
        done = compress(
            source,
            tmp_path / str(number),
            CompressOptions(3, Merge("weights", mix)),  # type: ignore[arg-type]
            TEXTS,
        )
        assert [fold.experts for fold in done.folds[0]] == [(0, 3), (1, 4), (2, 5)]
    compress(source, to, CompressOptions(3, Merge()))
    found = transformers.AutoModelForCausalLM.from_pretrained(to).state_dict()
    for name, value in once.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-7)


def test_least_squares_fits_outputs_better_than_the_other_shares(models: dict[str, Path]) -> None:
    from moe.surgery.look.routed import routed
    from moe.surgery.shrink.shares import by_least_squares, by_usage

    found = next(routed(Checkpoint.open(models["skywork_moe"]), TEXTS.calibration.tokens))
    group = [0, 2, 3]
    weights = torch.stack(
        [(found.routing.weights * (found.routing.experts == n)).sum(dim=1) for n in group], dim=1
    )
    outputs = torch.stack([found.experts.output(n, found.inputs) for n in group])

    def error(shares: torch.Tensor) -> float:
        mixed = torch.einsum("i,itd->td", shares.float(), outputs) * weights.sum(1)[:, None]
        return (mixed - torch.einsum("ti,itd->td", weights, outputs)).square().sum().item()

    fitted = error(by_least_squares(found, group))
    assert fitted < error(by_usage(found, group))
    assert fitted < error(torch.full((3,), 1 / 3))


def test_random_pruning_follows_its_seed(models: dict[str, Path], tmp_path: Path) -> None:
    kept = [
        compress(
            models["mixtral"], tmp_path / str(n), CompressOptions(3, Prune("random"), seed=seed)
        )
        for n, seed in enumerate((0, 0, 1))
    ]
    assert kept[0].folds == kept[1].folds != kept[2].folds


@pytest.mark.parametrize(
    ("family", "experts", "method", "message"),
    [
        ("mixtral", 1, Prune("random"), "a token uses 2 of 1 of 1 groups; give at least 2"),
        ("mixtral", 6, Prune("random"), "asked for 6 experts of 6"),
        ("raymoe", 3, Merge(), "do not divide into the 2 groups"),
        ("raymoe", 2, Merge(), "give at least 4"),
        ("mixtral", 3, Prune("traffic"), r"prune \(by traffic\) is measured on text; give --data"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(
    family: str,
    experts: int,
    method: ShrinkMethod,
    message: str,
    models: dict[str, Path],
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match=message):
        compress(models[family], tmp_path / "small", CompressOptions(experts, method))
    assert not list(tmp_path.iterdir())


def test_dense_and_hashed_models_and_full_directories_are_refused(tmp_path: Path) -> None:
    dense = tiny.saved(tiny.llama(), tmp_path / "dense")
    options = CompressOptions(2, Merge())
    with pytest.raises(ConfigError, match="no experts to prune or merge"):
        compress(dense, tmp_path / "to", options)
    with pytest.raises(StorageError, match="not empty"):
        compress(mixtures.made("mixtral", tmp_path / "moe"), dense, options)
    moe = {"top_k": 1, "expert_size": 40, "segment_tokens": 4}
    merged = exports.export(routed(**moe), tmp_path / "merged")
    with pytest.raises(ConfigError, match=r"merged for segments .* cannot be pruned or merged"):
        compress(merged, tmp_path / "to", options)
    with pytest.raises(ConfigError, match="no merit 'luck'"):
        Prune("luck")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="give --experts"):
        CompressOptions(None, Merge())
    with pytest.raises(ConfigError, match="give --method"):
        CompressOptions(2)


SLOW = """
import sys, time
from pathlib import Path
from moe.surgery.shrink.compress import compress
from moe.surgery.shrink.merge import Merge
from moe.surgery.shrink.options import CompressOptions

def progress(done, total):
    print(done, flush=True)
    time.sleep(0.02)

compress(Path(sys.argv[1]), Path(sys.argv[2]), CompressOptions(3, Merge()), None, progress)
"""


def test_a_killed_compression_leaves_nothing_that_loads(
    models: dict[str, Path], tmp_path: Path
) -> None:
    to = tmp_path / "small"
    command = [sys.executable, "-c", SLOW, str(models["mixtral"]), str(to)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        for _ in range(5):
            assert run.stdout.readline()
        run.send_signal(signal.SIGKILL)
    assert not to.exists()
    compress(models["mixtral"], to, CompressOptions(3, Merge()))
    assert list(tmp_path.iterdir()) == [to]


def test_memory_is_that_of_a_few_blocks_however_many_shards(tmp_path: Path) -> None:
    sizes = {"vocab_size": 1000, "hidden_size": 480, "intermediate_size": 4096}
    model = tiny.mixtral(**sizes, num_hidden_layers=2, num_local_experts=8)
    source = tmp_path / "moe"
    model.save_pretrained(source, max_shard_size="30MB")
    assert len(list(source.glob("*.safetensors"))) > 5
    options = CompressOptions(4, Merge("outputs", "least-squares"))
    whole = sum(path.stat().st_size for path in source.glob("*.safetensors"))
    peak = watched_peak(compress, source, tmp_path / "small", options, TEXTS)
    assert peak <= memory_bar(source)
    assert peak < whole / 2


def _check_tensors(large: Checkpoint, small: Checkpoint, done: Compressed) -> None:
    """Recompute every tensor from the folds, in float64."""
    table = {tensor.role: tensor for tensor in tensors(large.config)}
    by_name = {tensor.name: tensor for tensor in table.values()}
    for tensor in tensors(small.config):
        role, found = tensor.role, small.read(tensor)
        if role.layer not in done.folds or (
            role.expert is None and role.part not in ("router", "balance_bias")
        ):
            assert torch.equal(found, large.read(by_name[tensor.name]))
            continue
        folds = done.folds[role.layer]
        if role.expert is None:
            rows = large.read(by_name[tensor.name]).double()
            expected = torch.stack(
                [sum(s * rows[e] for e, s in zip(*fold, strict=True)) for fold in folds]  # type: ignore[misc]
            )
        else:
            fold = folds[role.expert]
            before, _, after = tensor.name.partition(f"experts.{role.expert}.")
            names = [f"{before}experts.{number}.{after}" for number in fold.experts]
            parents = [large.read(by_name[name]).double() for name in names]
            expected = sum(s * p for s, p in zip(fold.shares, parents, strict=True))  # type: ignore[assignment]
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def _check_receipt(source: Path, to: Path, done: Compressed) -> None:
    receipt = json.loads((to / RECEIPT).read_text())
    for name, digest in receipt["files"].items():
        assert hashlib.sha256((to / name).read_bytes()).hexdigest() == digest
    assert {*receipt["files"], RECEIPT} == {path.name for path in to.iterdir()}
    assert receipt["source_files"]["config.json"] == _digest(source / "config.json")
    assert receipt["loss"]["before"] == pytest.approx(_loss(source), rel=1e-4)
    assert receipt["loss"]["after"] == pytest.approx(_loss(to), rel=1e-4)
    before, after = (_logits(path) for path in (source, to))
    assert receipt["distance"]["max_absolute"] == pytest.approx(
        (before - after).abs().max().item(), rel=1e-3
    )
    stored = sum(t.numel() * 4 for f in to.glob("*.safetensors") for t in load_file(f).values())
    assert receipt["bytes"]["after"] == stored == done.bytes[1]
    for layer, folds in receipt["folds"].items():
        assert len(folds) == 4
        assert all(sum(fold["shares"]) == pytest.approx(1.0) for fold in folds), layer


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _logits(path: Path) -> torch.Tensor:
    checkpoint = Checkpoint.open(path)
    with torch.no_grad():
        return build(checkpoint.config, checkpoint.read)(TEXTS.held_out.tokens[:1]).values


def _loss(path: Path) -> float:
    checkpoint = Checkpoint.open(path)
    with torch.no_grad():
        logits = build(checkpoint.config, checkpoint.read)(TEXTS.held_out.tokens).values
    labels = TEXTS.held_out.labels
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).item()


def _words(method: ShrinkMethod) -> list[str]:
    from dataclasses import asdict

    return [method.name, *asdict(method).values()]  # type: ignore[call-overload]
