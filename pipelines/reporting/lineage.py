"""Where the weights of a run come from: the cards and receipts on the way from the base model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moe.checkpoint.card.steps import RECEIPT, steps_of
from moe.config.json_file import read_json
from moe.errors import CheckpointError


def lineage(model: Path) -> list[dict[str, Any]]:
    """Return the steps behind a model directory, the oldest first, each with what its receipt adds
    as ``notes``, as far as the directories of the receipts still lie beside the model.
    """
    steps = steps_of(model)
    if not steps:
        return []
    directory: Path | None = model
    for step in reversed(steps):
        if directory is not None:
            step["notes"] = _notes(directory)
            directory = _source(directory, step)
    return steps


def _source(directory: Path, step: Mapping[str, Any]) -> Path | None:
    """Return the directory that a step read, if it lies beside the one it wrote."""
    names = step.get("source")
    if not isinstance(names, list) or not names:
        return None
    found = directory.resolve().parent / str(names[0])
    return found if (found / RECEIPT).is_file() and found != directory else None


def _notes(directory: Path) -> list[str]:
    """Return what a receipt says of accuracy and of files."""
    try:
        receipt = read_json(directory / RECEIPT)
    except CheckpointError:
        return []
    notes = []
    distance = receipt.get("distance")
    if isinstance(distance, dict) and isinstance(distance.get("relative"), int | float):
        notes.append(f"logits differ by {distance['relative']:.2g} of the largest")
    loss = receipt.get("loss")
    if isinstance(loss, dict):
        notes.append(f"loss {loss.get('before')} before, {loss.get('after')} after")
    files = receipt.get("files")
    if isinstance(files, dict):
        notes.append(f"SHA-256 of {len(files)} files")
    return notes
