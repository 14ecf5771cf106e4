"""llama.cpp beside us: f16 and q8_0, both converted here from the same model."""

import os
from pathlib import Path

from benchmarks.peers.gguf_model import TYPES, write_gguf
from benchmarks.server_process import Start

ENGINE = "llama.cpp"
ENVIRONMENT = ".venv-peers-llama"


def starts(folder: Path, model: Path, slots: int, longest: int) -> list[Start]:
    """Return how it is started for each type of weights; none where it is not installed."""
    python = folder.absolute() / ENVIRONMENT / "bin" / "python"
    if not python.exists():
        return []
    room = ["--threads", str(os.cpu_count()), "--slots", str(slots), "--context", str(longest)]
    return [_start(python, model, weights, room) for weights in TYPES]


def _start(python: Path, model: Path, weights: str, room: list[str]) -> Start:
    file = _converted(model, weights)
    words = ["-m", "benchmarks.peers.llama_server", str(file), *room]
    return Start(
        engine=ENGINE,
        weights=weights,
        command=lambda port: [str(python), *words, "--port", str(port)],
        model=str(file),
    )


def _converted(model: Path, weights: str) -> Path:
    """Return the GGUF file beside a model, written if it is missing or older than the model."""
    file = model.with_name(f"{model.name}-{weights}.gguf")
    if not file.exists() or file.stat().st_mtime < (model / "config.json").stat().st_mtime:
        partial = file.with_suffix(".partial")
        write_gguf(model, partial, weights)
        partial.rename(file)
    return file
