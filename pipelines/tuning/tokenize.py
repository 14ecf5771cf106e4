"""Rows of conversations, instructions or pairs to token shards with marked answers."""

import logging
from collections.abc import Sequence
from pathlib import Path

from moe.errors import ConfigError
from moe.staging import refuse_existing
from pipelines.corpus.fitting import Fitting
from pipelines.corpus.manifest import Rendering, TokenManifest
from pipelines.corpus.tokenizer import DocumentTokenizer
from pipelines.corpus.writing import (
    Report,
    Source,
    TokenizeOptions,
    compare_vocabulary,
    write_shards,
)
from pipelines.serving.text.text import Text
from pipelines.tuning.reading import Reading, TuningOptions
from pipelines.tuning.records import read_records
from pipelines.tuning.rendering import Renderer
from pipelines.tuning.templates import template

_LOG = logging.getLogger(__name__)
_NOUNS = {"chat": "conversations", "instruction": "instructions", "preference": "pairs"}


def tokenize_rows(
    inputs: Sequence[Path],
    model: Path,
    to: Path,
    tuning: TuningOptions,
    options: TokenizeOptions,
    report: Report = _LOG.info,
) -> TokenManifest:
    """Write the rows of files and folders to ``to`` as token shards for a model."""
    if options.packing == "cut":
        raise ConfigError(
            f"rows of --kind {tuning.kind} stay whole, they are not cut out of one text; choose "
            "--packing packed or padded"
        )
    refuse_existing(to)
    tokenizer, text = DocumentTokenizer(model), Text.open(model)
    renderer = Renderer(text, template(tuning.template, text, model), tuning.answers)
    own, fitting = renderer.template, Fitting(options.sequence_length, options.truncation)
    report(f"chat template: {own.name}; answers are known by {renderer.method}")
    reading = Reading(text, renderer, tuning, fitting, options.seed)
    source = Source(
        model,
        tuning.kind,
        _NOUNS[tuning.kind],
        Rendering(own.name, own.sha256, tuning.answers),
        lambda: reading.account.counts(fitting),
    )
    units = reading.units(read_records(inputs, report))
    manifest = write_shards(units, source, to, tokenizer, options, report)
    reading.account.tell(fitting, report)
    compare_vocabulary(tokenizer, manifest, model, report)
    return manifest
