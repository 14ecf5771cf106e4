"""A tiny mixture of experts with a tokenizer, text in its tokens, and a run over both."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from moe.config.run import RunConfig, parse_run
from moe.planning.devices.inventory_file import save_profile
from moe.planning.devices.pace import Profile
from moe.planning.devices.rates import CPU_THREAD
from pipelines.corpus.tokenize import TokenizeOptions, tokenize
from tests import tiny, vocabularies


def make(folder: Path) -> Path:
    """Write ``model``, ``tokens`` and a profile, so that no plan is measured for, into a folder."""
    vocabulary = vocabularies.byte_level()
    model = tiny.mixtral(vocab_size=vocabulary.get_vocab_size())
    vocabularies.save(vocabulary, tiny.saved(model, folder / "model"))
    (folder / "text").mkdir()
    for number in range(30):
        words = " ".join(f"{word} and {number * word % 13}" for word in range(150))
        (folder / "text" / f"{number}.txt").write_text(words)
    options = TokenizeOptions(sequence_length=16, held_out_fraction=0.1)
    tokenize([folder / "text"], folder / "model", folder / "tokens", options)
    known = Profile("cpu", 1, CPU_THREAD, source="the material of tests")
    save_profile([known], [], folder / "profile.toml")
    return folder


def run(folder: Path, to: Path, steps: int, every: int, *changes: Mapping[str, Any]) -> RunConfig:
    """Return a run that keeps the checkpoint of every so many steps; changes are by section."""
    table = run_table(folder, to, steps) | {"name": "tiny"}
    table["checkpoint"] |= {"every": every, "keep": 9}
    for change in changes:
        for section, keys in change.items():
            table[section] = table.get(section, {}) | keys
    return parse_run(table, "test")


def diverging(folder: Path, to: Path) -> Path:
    """Copy the model with a weight that is no number."""
    shutil.copytree(folder / "model", to)
    weights = load_file(to / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, to / "model.safetensors", metadata={"format": "pt"})
    return to


def run_table(folder: Path, to: Path, steps: int) -> dict[str, Any]:
    """Return the sections of a run of two stages, without its name."""
    return {
        "model": {"path": str(folder / "model")},
        "data": {"path": str(folder / "tokens")},
        "train": {"steps": steps, "global_batch": 4, "learning_rate": 3e-3, "warmup_steps": 2},
        "plan": {"stages": 2, "profile": str(folder / "profile.toml")},
        "checkpoint": {"path": str(to)},
        "cluster": {"group_seconds": 20.0, "launch_seconds": 60.0},
    }
