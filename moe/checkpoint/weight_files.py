"""Finds the file of each tensor in a model directory. No torch."""

from pathlib import Path

from moe.checkpoint.header import missing, read_header
from moe.config.json_file import read_json
from moe.errors import CheckpointError
from moe.storage import Location

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
FACTORS = "factors"
"""How the files begin of a checkpoint that holds the factors of LoRA and no model."""


def weight_files(directory: Location) -> dict[str, Location]:
    """Return the file of every tensor; if both forms exist, use the form that transformers uses.

    If neither form exists, CheckpointError says what the directory holds instead.
    """
    if (directory / SINGLE).is_file():
        return dict.fromkeys(read_header(directory / SINGLE).entries, directory / SINGLE)
    if (directory / INDEX).exists():
        return indexed(directory, INDEX)
    if isinstance(directory, Path) and (directory / SINGLE).is_symlink():
        raise missing(directory / SINGLE)
    raise CheckpointError(f"{directory} holds no {SINGLE} and no {INDEX}{_instead(directory)}")


def indexed(directory: Location, index: str) -> dict[str, Location]:
    """Return the file of every tensor, according to an index."""
    return {name: directory / file for name, file in weight_map(directory, index).items()}


def weight_map(directory: Location, index: str) -> dict[str, str]:
    """Return the file of every tensor in a directory, according to an index file."""
    table = read_json(directory / index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise CheckpointError(f"{directory / index} has no weight_map")
    if not all(isinstance(file, str) for file in table.values()):
        raise CheckpointError(f"{directory / index} has a weight_map that names no files")
    return table


def _instead(directory: Location) -> str:
    """Return what a directory holds instead of a model, and what to do with it."""
    if (directory / "adapter_model.safetensors").exists():
        return (
            ", but adapter_model.safetensors, the difference to another model; merge it into that "
            "model (`raymoe merge`)"
        )
    if any(directory.glob(f"{FACTORS}-*.safetensors")):
        return (
            ", but what a run with [train.lora] trained beside its model; make an adapter of it "
            "(`raymoe checkpoint convert --format peft`), and a model of both (`raymoe merge`)"
        )
    others = sorted(file.name for file in directory.glob("*.safetensors"))
    if others:
        return (
            f", but {', '.join(others[:3])}; give the directory in the form that transformers "
            "writes (from_pretrained, then save_pretrained)"
        )
    ggufs = sorted(file.name for file in directory.glob("*.gguf"))
    if ggufs:
        return f", but {ggufs[0]}; take the model in the form that transformers writes, safetensors"
    pickles = sorted(
        file.name for kind in ("bin", "pt", "pth") for file in directory.glob(f"*.{kind}")
    )
    if pickles:
        return (
            f", but {pickles[0]}, a pickle that runs code when opened, and raymoe opens none; if "
            "you trust it, convert it with transformers (from_pretrained, then save_pretrained) "
            "to safetensors, where nothing is at risk"
        )
    return ""
