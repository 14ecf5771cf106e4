"""Ways to halve the experts of a trained model, compared by held-out loss at equal size.

A small model of bytes is trained here on the demo's text, twice: a dense one that is upcycled to
experts which are trained further, and experts from scratch with as many steps. Each is brought to
fewer experts in every way that ``raymoe compress`` has. Random pruning is repeated with several
seeds, and all of it with several trained models. The bar is the order that the papers report:
random pruning loses most, then pruning by traffic, then merging.
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch

from benchmarks.material import CONFIG, byte_tokenizer
from benchmarks.results import DEMO, finish, options, parse
from moe.checkpoint.names import disk_name
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.writer import TensorSpec, copy_tokenizer, write_json
from moe.config.families import write_config
from moe.config.model import ModelConfig, MoeConfig
from moe.config.tensors import tensors
from moe.nn.balance import Balance
from moe.nn.build import build
from moe.nn.decoder import Decoder, Pass
from moe.nn.loss import cross_entropy_sum
from moe.surgery.copies import Drop
from moe.surgery.initialise import initialise
from moe.surgery.options import UpcycleOptions
from moe.surgery.output import Values, write_model
from moe.surgery.shrink.compress import compress
from moe.surgery.shrink.merge import Merge
from moe.surgery.shrink.method import ShrinkMethod
from moe.surgery.shrink.options import CompressOptions
from moe.surgery.shrink.prune import Prune
from moe.surgery.text import Texts
from moe.surgery.upcycle import upcycle
from pipelines.corpus.shards import IGNORED, TokenShards
from pipelines.corpus.tokenize import TokenizeOptions, tokenize
from pipelines.models.evaluate import EvaluateOptions, evaluate
from pipelines.models.text import text_from

EXPERTS, TOP_K = 8, 2
RATE, WARMUP, BALANCE = 3e-3, 20, 0.01
METHODS: dict[str, ShrinkMethod] = {
    "prune random": Prune("random"),
    "prune by traffic": Prune("traffic"),
    "prune by reach": Prune("reach"),
    "merge weights, uniform": Merge("weights", "uniform"),
    "merge weights, usage": Merge("weights", "usage"),
    "merge outputs, usage": Merge("outputs", "usage"),
    "merge outputs, least squares": Merge("outputs", "least-squares"),
}


def main() -> None:
    """Train, shrink and print."""
    arguments = _arguments()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        models = list(_trained(arguments, Path(folder)))
        for origin in ("upcycled", "from scratch"):
            own = [model for name, model in models if name == origin]
            for experts in arguments.experts:
                rows += _compared(arguments, Path(folder), own, origin, experts)
    title = f"Held-out loss, {EXPERTS} experts to fewer, {arguments.models} trained models"
    finish(arguments, title, rows, _missed(rows))


def _arguments() -> argparse.Namespace:
    parser = options(__doc__ or "", material=False)
    parser.add_argument("--text", type=Path, default=DEMO / "text")
    parser.add_argument("--steps", type=int, default=400, help="of each of the two trainings")
    parser.add_argument("--models", type=int, default=3, help="trained models of each origin")
    parser.add_argument("--seeds", type=int, default=4, help="of random pruning")
    parser.add_argument("--rows", type=int, default=64, help="sequences measured and judged on")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--hidden", type=int, default=144)
    parser.add_argument("--experts", type=int, nargs="+", default=[6, 4])
    smallest = {"steps": 2, "models": 1, "seeds": 2, "rows": 2, "batch": 2, "experts": [4]}
    return parse(parser, **smallest, length=32, hidden=48)


def _trained(arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield trained models with experts, and where they came from."""
    hidden, length = arguments.hidden, arguments.length
    sizes = {"hidden_size": hidden, "head_size": hidden // 6, "ffn_size": 2 * hidden}
    dense = replace(CONFIG, initializer_range=0.05, **sizes)
    moe = replace(dense, family="mixtral", moe=MoeConfig(EXPERTS, TOP_K, 2 * hidden))
    tokens = folder / "tokens"
    for seed in range(arguments.models):
        start, parent, sparse = (folder / f"{name}-{seed}" for name in ("init", "dense", "sparse"))
        initialise(dense, start, seed)
        byte_tokenizer().save(str(start / "tokenizer.json"))
        if not seed:
            tokenize([arguments.text], start, tokens, TokenizeOptions(length))
        _train(start, parent, tokens, seed, arguments)
        upcycle(parent, sparse, UpcycleOptions(EXPERTS, TOP_K, seed=seed, method=Drop(0.5)))
        yield "upcycled", _train(sparse, folder / f"upcycled-{seed}", tokens, seed + 100, arguments)
        scratch = folder / f"init-moe-{seed}"
        initialise(moe, scratch, seed)
        byte_tokenizer().save(str(scratch / "tokenizer.json"))
        to = folder / f"scratch-{seed}"
        yield "from scratch", _train(scratch, to, tokens, seed, arguments, twice=True)


def _train(
    model: Path,
    to: Path,
    tokens: Path,
    seed: int,
    arguments: argparse.Namespace,
    twice: bool = False,
) -> Path:
    """Train a model in this process, write it and return where."""
    checkpoint, shards = Checkpoint.open(model), TokenShards.open(tokens, "train")
    decoder = build(checkpoint.config, checkpoint.read).train()
    steps = arguments.steps * (2 if twice else 1)
    optimizer = torch.optim.AdamW(decoder.parameters(), RATE, (0.9, 0.95), weight_decay=0.1)
    coefficients = dict.fromkeys(checkpoint.config.moe_layers, BALANCE)
    how = Pass(balance=Balance(kind="switch", coefficients=coefficients))
    drawn = np.random.default_rng(seed)
    for step in range(steps):
        rate = RATE * min((step + 1) / WARMUP, 1.0) * max(0.1, 1 - step / steps)
        optimizer.param_groups[0]["lr"] = rate
        batch = shards.batch(drawn.integers(len(shards), size=arguments.batch))
        labels = torch.from_numpy(batch.labels)
        loss = cross_entropy_sum(decoder(torch.from_numpy(batch.tokens), how).values, labels)
        optimizer.zero_grad()
        torch.autograd.backward(loss / (labels != IGNORED).sum())
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
    _save(decoder, checkpoint.config, model, to)
    return to


def _save(decoder: Decoder, config: ModelConfig, source: Path, to: Path) -> None:
    to.mkdir()
    write_json(to / "config.json", write_config(config, "float32"))
    copy_tokenizer(source, to)
    weights = dict(decoder.named_parameters())
    own = list(tensors(config))
    specs = [TensorSpec(disk_name(config.family, t.name), t.shape, torch.float32) for t in own]
    values = (Values([weights[tensor.name].detach()]) for tensor in own)
    for shard in write_model(to, specs, values, lambda done, total: None).values():
        shard.result()


def _compared(
    arguments: argparse.Namespace, folder: Path, models: list[Path], origin: str, experts: int
) -> Iterator[dict[str, Any]]:
    """Yield a row for each way, over the trained models of one origin."""
    tokens = folder / "tokens"
    whole = [evaluate(model, tokens, EvaluateOptions(rows=arguments.rows)).loss for model in models]
    for name, method in METHODS.items():
        seeds = arguments.seeds if name == "prune random" else 1
        rises = [
            _loss(arguments, model, tokens, CompressOptions(experts, method, seed=seed)) - before
            for model, before in zip(models, whole, strict=True)
            for seed in range(seeds)
        ]
        yield {
            "what": f"{origin}, {experts} experts: {name}",
            "loss of all experts": mean(whole),
            "rise": mean(rises),
            "deviation": stdev(rises) if len(rises) > 1 else 0.0,
        }


def _loss(
    arguments: argparse.Namespace, model: Path, tokens: Path, options: CompressOptions
) -> float:
    rows = arguments.rows
    measured = text_from(model, tokens, "train", rows)
    texts = Texts(measured, text_from(model, tokens, "held_out", rows))
    with tempfile.TemporaryDirectory() as folder:
        done = compress(model, Path(folder) / "small", options, texts)
    assert done.losses is not None
    return done.losses[1]


def _missed(rows: list[dict[str, Any]]) -> list[str]:
    """Return where random < traffic < best merge does not hold."""
    rises: dict[str, dict[str, float]] = {}
    for row in rows:
        group, _, way = str(row["what"]).partition(": ")
        rises.setdefault(group, {})[way] = row["rise"]
    missed = []
    for group, found in rises.items():
        merge = min(rise for way, rise in found.items() if way.startswith("merge"))
        if not found["prune random"] > found["prune by traffic"] > merge:
            missed.append(f"{group}: not random > traffic > merge")
    return missed


if __name__ == "__main__":
    main()
