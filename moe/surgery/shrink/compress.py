"""A model to a smaller one: fewer experts, fewer bits, streamed, with a receipt.

First the model is run once over the calibration text, layer by layer, to decide what becomes of the
experts of each layer; then each tensor of the smaller model is written, a block of rows at a time.
Memory holds one layer's activations, or a few blocks.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moe.checkpoint.card.body import SOURCE, THIS, Measured
from moe.checkpoint.card.card import write_card
from moe.checkpoint.card.steps import Made
from moe.checkpoint.reader import Checkpoint
from moe.config.quantised import KEY, form_named, quantised_table
from moe.errors import ConfigError
from moe.staging import check_room, refuse_existing, staged
from moe.storage import local
from moe.surgery.calibration import probe
from moe.surgery.distance import LogitDistance, logit_distance
from moe.surgery.held_out import text_loss
from moe.surgery.look.routed import routed
from moe.surgery.output import Progress, write_model, write_small_files
from moe.surgery.receipt import hashes_of, write_receipt, written
from moe.surgery.shrink.fold import Reduction
from moe.surgery.shrink.method import Site
from moe.surgery.shrink.options import PROBE_TOKENS, CompressOptions, compressed_config
from moe.surgery.shrink.stored import Stored
from moe.surgery.shrink.tensors import Folds, Smaller
from moe.surgery.streamed import logits
from moe.surgery.text import Texts


@dataclass(frozen=True, slots=True)
class Compressed:
    """What a compression did, as its receipt says it.

    ``losses`` are in nats per token on the held-out text, before and after; None without text.
    ``bytes`` are the sizes of the weights before and after. ``folds`` are, by layer and new expert,
    the old experts and their shares.
    """

    options: CompressOptions
    folds: Folds
    losses: tuple[float, float] | None
    bytes: tuple[int, int]
    distance: LogitDistance


def compress(
    source: Path,
    to: Path,
    options: CompressOptions,
    texts: Texts | None = None,
    progress: Progress = lambda done, total: None,
) -> Compressed:
    """Write the smaller form of a model directory and its receipt.

    ``progress`` is called with the bytes written and the total.
    """
    checkpoint = Checkpoint.open(source)
    config = compressed_config(checkpoint.config, options)
    if options.measures and texts is None:
        raise ConfigError(
            f"{_said(options)} is measured on text; give --data, or choose another way"
        )
    refuse_existing(to)
    folds = _folds(checkpoint, options, texts)
    form = None if options.form is None else form_named(options.form, config)
    stored = Stored(Smaller(checkpoint, config, folds), form)
    pieces = stored.pieces()
    specs = [spec for spec, _ in pieces]
    total = sum(spec.bytes for spec in specs)
    check_room(to, total)
    with staged(to) as staging, ThreadPoolExecutor(1) as thread:
        few_bits = {} if form is None else {KEY: quantised_table(form)}
        write_small_files(staging, checkpoint, config, few_bits)
        values = (stored.values(*piece) for piece in pieces)
        shards = write_model(staging, specs, values, progress)
        inputs = thread.submit(hashes_of, checkpoint)
        after = Checkpoint.open(staging)
        done = Compressed(
            options,
            folds,
            None if texts is None else _losses(checkpoint, after, texts),
            (_bytes(checkpoint), total),
            _distance(checkpoint, after, options, texts),
        )
        write_card(staging, [source], config, _made(done, texts), _measured(done, texts))
        files = inputs.result(), written(staging, shards)
        write_receipt(staging, _receipt(checkpoint, done, texts, files))
    return done


def _made(done: Compressed, texts: Texts | None) -> Made:
    """Return what the card tells of a compression."""
    options = done.options
    name = "compress" if options.method is None else f"compress ({options.method.name})"
    read = texts.calibration.record() if texts and options.measures else None
    data = {} if read is None else {str(read["source"]): str(read["sha256"])}
    asked = {"experts": options.experts, "form": options.form, "seed": options.seed}
    return Made(name, options.record() | asked, data)


def _measured(done: Compressed, texts: Texts | None) -> tuple[Measured, ...]:
    """Return the losses in the form of the card."""
    if done.losses is None or texts is None:
        return ()
    read = texts.held_out.record()
    text, digest = str(read["source"]), str(read["sha256"])
    before, after = done.losses
    return Measured(SOURCE, before, text, digest), Measured(THIS, after, text, digest)


def _folds(checkpoint: Checkpoint, options: CompressOptions, texts: Texts | None) -> Folds:
    """Decide what becomes of the experts of each layer."""
    config, method = checkpoint.config, options.method
    if method is None or options.experts is None:
        return {}
    assert config.moe is not None
    reduction = Reduction(config.moe, options.experts)
    seen = None
    if method.measures and texts is not None:
        seen = routed(checkpoint, texts.calibration.tokens)
    found = {}
    for layer in config.moe_layers:
        on_text = None if seen is None else next(seen)
        site = Site(checkpoint, layer, reduction, options.seed, on_text)
        found[layer] = method.folds(site)
    return found


def _losses(before: Checkpoint, after: Checkpoint, texts: Texts) -> tuple[float, float]:
    return text_loss(before, texts.held_out), text_loss(after, texts.held_out)


def _distance(
    before: Checkpoint, after: Checkpoint, options: CompressOptions, texts: Texts | None
) -> LogitDistance:
    """Compare logits on the beginning of the held-out text, or else on random tokens."""
    if texts is None:
        tokens = probe(before.config, options.seed, PROBE_TOKENS)
    else:
        tokens = texts.held_out.tokens[:1, :PROBE_TOKENS]
    return logit_distance(logits(before, tokens), logits(after, tokens))


def _bytes(checkpoint: Checkpoint) -> int:
    """Return the size of the files with the weights."""
    return sum(local(path).stat().st_size for path in checkpoint.shards.paths)


def _receipt(
    checkpoint: Checkpoint,
    done: Compressed,
    texts: Texts | None,
    files: tuple[dict[str, str], dict[str, str]],
) -> dict[str, Any]:
    """Return the receipt; ``files`` are the hashes of what was read and of what was written."""
    options, losses = done.options, done.losses
    before, after = done.bytes
    return {
        "method": "compress" if options.method is None else options.method.name,
        "options": options.record() | {"experts": options.experts, "form": options.form},
        "seed": options.seed,
        "source": local(checkpoint.path).resolve().name,
        "source_files": files[0],
        "files": files[1],
        "folds": {
            str(layer): [{"experts": fold.experts, "shares": fold.shares} for fold in folds]
            for layer, folds in done.folds.items()
        },
        "calibration": texts.calibration.record() if texts and options.measures else None,
        "held_out": texts.held_out.record() if texts else None,
        "loss": None if losses is None else {"before": losses[0], "after": losses[1]},
        "bytes": {"before": before, "after": after},
        "distance": asdict(done.distance),
        "notes": checkpoint.notes,
    }


def _said(options: CompressOptions) -> str:
    assert options.method is not None
    return f"{options.method.name} ({', '.join(map(' '.join, options.record().items()))})"
