"""Models in 8 and 4 bits: bytes, held-out loss and logits beside float32; products by rows.

Each form of ``raymoe compress --quantise`` is written and read again. Below, one matrix of a
feed-forward is multiplied by 1 to 64 rows: in float32; packed in 16 and 8 bits as ``raymoe serve
--weights`` keeps them; and held in each form and dequantised for every product, which is what a CPU
without products of that form would do. Bar: int8 moves the loss by less than 0.01.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from benchmarks.results import DEMO, finish, options, parse
from moe.checkpoint.quantised.codec import packed, quantised, scales_of, spread_scales, unpacked
from moe.checkpoint.reader import Checkpoint
from moe.config.answering import WeightKind
from moe.config.quantised import FORMS, Quantised, form_named, quantises
from moe.config.tensors import tensors
from moe.nn.inference.operands import pack
from moe.nn.product import product
from moe.surgery.shrink.compress import compress
from moe.surgery.shrink.options import CompressOptions
from moe.surgery.text import Texts
from pipelines.models.text import text_from

ROWS = (1, 4, 16, 64)
BAR = 0.01


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    rows: list[dict[str, Any]] = []
    for model in arguments.models:
        rows += _forms(model, arguments)
    rows += _products(arguments)
    missed = [
        f"{row['what']}: the loss rises by {row['rise']:.4f}, bar {BAR}"
        for row in rows
        if row["what"].endswith("int8") and isinstance(row["rise"], float) and row["rise"] > BAR
    ]
    finish(arguments, "Models and products in few bits", rows, missed)


def _arguments() -> argparse.Namespace:
    parser = options(__doc__ or "")
    parser.add_argument("--models", type=Path, nargs="+", default=None, help="default: --model")
    parser.add_argument("--rows", type=int, default=8, help="held-out sequences")
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--directory", type=Path, help="disk to write to; default that of /tmp")
    parser.add_argument("--dense", type=Path, default=DEMO / "dense")
    arguments = parse(parser, rows=2, repeats=2)
    arguments.models = arguments.models or [arguments.dense, arguments.model]
    return arguments


def _forms(model: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a row for a model as it is, and for each form that fits it."""
    held_out = text_from(model, arguments.data, "held_out", arguments.rows)
    texts = Texts(held_out, held_out)
    for name in FORMS:
        with tempfile.TemporaryDirectory(dir=arguments.directory) as folder:
            done = compress(model, Path(folder) / "to", CompressOptions(form=name), texts)
        assert done.losses is not None
        before, after = done.losses
        if name == "int8":
            yield _row(f"{model.name} as it is", GB=done.bytes[0] / 1e9, loss=before)
        yield _row(
            f"{model.name} {name}",
            GB=done.bytes[1] / 1e9,
            loss=after,
            rise=after - before,
            logits=done.distance.mean_absolute,
            same=done.distance.same_argmax,
        )


def _products(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the milliseconds of a product by the number of its rows."""
    checkpoint = Checkpoint.open(arguments.models[-1])
    tensor = next(each for each in tensors(checkpoint.config) if each.role.part == "up")
    assert quantises(tensor.role)
    weight = checkpoint.read(tensor).float()
    for kind in get_args(WeightKind):
        packed_run = _packed(kind, weight)
        yield _row(f"product, --weights {kind}", **_timed(packed_run, weight, arguments.repeats))
    for name in FORMS:
        run = _dequantised(form_named(name, checkpoint.config), weight)
        yield _row(f"product, {name} dequantised", **_timed(run, weight, arguments.repeats))


def _packed(kind: WeightKind, weight: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a product with a matrix as a server packs it."""
    operand = pack(kind, [weight])

    def run(x: Tensor) -> Tensor:
        return operand.product(operand.prepared(x))

    return run


def _dequantised(form: Quantised, weight: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a product with a matrix that is held in a form."""
    scales = scales_of(form, weight)
    values = quantised(form, weight, scales)
    words = packed(values, form.bits) if form.kind == "int" else None

    def run(x: Tensor) -> Tensor:
        numbers = values if words is None else unpacked(words, form.bits, weight.shape[1])
        return product(x, numbers.float() * spread_scales(form, scales, weight.shape))

    return run


def _timed(run: Callable[[Tensor], Tensor], weight: Tensor, repeats: int) -> dict[str, float]:
    found = {}
    for count in ROWS:
        x = torch.randn(count, weight.shape[1])
        run(x)
        times = []
        for _ in range(repeats):
            started = time.perf_counter()
            run(x)
            times.append(time.perf_counter() - started)
        found[f"ms of {count}"] = 1e3 * min(times)
    return found


def _row(what: str, **figures: float) -> dict[str, Any]:
    """Return a row with all columns; what does not apply is a dash."""
    columns = ("GB", "loss", "rise", "logits", "same", *(f"ms of {count}" for count in ROWS))
    return {"what": what} | {name: figures.get(name, "-") for name in columns}


if __name__ == "__main__":
    main()
