"""Journals for tests of reports: of a run that was hurt and changed, and of hostile content."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cluster.journal import JOURNAL

BEGAN = 1_800_000_000.0
SCENE = {"epoch": 1, "ranks_by_node": {"node": [0, 1]}, "spares": 1}
PHASES = {"seen": 0.2, "decided": 0.001, "process": 1.5, "built": 0.1, "joined": 0.2, "copied": 0.3}
TRACED = [
    [["F", 0, 0, 0.0, 1.0], ["F", 0, 1, 1.0, 2.0], ["B", 0, 0, 4.0, 6.0], ["B", 0, 1, 7.5, 9.5]],
    [["F", 1, 0, 1.1, 2.1], ["B", 1, 0, 2.1, 4.0], ["F", 1, 1, 4.0, 5.0], ["B", 1, 1, 5.0, 7.4]],
]


def step(number: int, layers: int = 3, experts: int = 4, **changes: Any) -> dict[str, Any]:
    """Return the line of a step; what is None is left out."""
    load = [10 + (number + expert) % 7 for expert in range(experts)]
    layer = {
        "load": load,
        "drop_rate": 0.1 / number,
        "coefficient": 0.01 + 0.001 * (number % 5),
        "balance_loss": 1.1,
        "sharpness": 2.0 + 0.01 * number,
    }
    if number % 10 == 1:
        layer |= {"similarity": 0.99, "closest": [0, experts - 1, 0.995]}
    table = {
        "step": number,
        "loss": 5.0 - number / (number + 20),
        "balance_loss": 1.1 * layers,
        "gradient_norm": 1.0 + 1 / number,
        "learning_rate": 3e-4,
        "step_seconds": 9.6,
        "tokens_per_second": 120.0 + number % 3,
        "flops_per_second": 2e10,
        "tokens": 1020,
        "drop_rate": 0.1 / number,
        "peak_memory_bytes": [5_100_000_000, 4_000_000_000],
        "compute_seconds": [7.0, 6.0],
        "bubble": 0.2,
        "communication": 0.02,
        "layers": {str(n): layer for n in range(layers)},
        "time": BEGAN + 10 * number,
        "epoch": 1,
        "goodput": 0.9,
    } | changes
    return {key: value for key, value in table.items() if value is not None}


def eventful(steps: int = 40) -> list[dict[str, Any]]:
    """Return a run with a start, a loss that is healed, a resize, checkpoints, a node that goes."""
    lines: list[dict[str, Any]] = [
        {"event": "began", "time": BEGAN, "boundary": 0, "ranks": 2, "new": True, **SCENE}
    ]
    for number in range(1, steps + 1):
        traced = {"timeline": TRACED} if number % 10 == 1 else {}
        lines.append(step(number, **traced))
        now = BEGAN + 10 * number + 1
        lines.append({"event": "copies", "time": now, "step": number, "stall_seconds": 0.01})
        if number % 20 == 0:
            cost = {"checkpoint_seconds": 2.5, "checkpoint_stall_seconds": 0.2}
            lines.append({"event": "checkpoint", "time": now + 2, "step": number, **cost})
        if number == 12:
            lines.append(
                {"event": "lost", "time": now, "done": 12, "cause": "rank 1 died", **SCENE}
            )
            healed = {"boundary": 12, "lost_step": 13, "replaced": [1], "restored": False}
            told = {"reason": "all go on from step 12", "seconds": PHASES, **SCENE}
            lines.append({"event": "mended", "time": now + 4, **healed, **told})
        if number == 30:
            moved = {"boundary": 30, "changed": True, "shape": "2 stages of 1 rank", **SCENE}
            told = {"reason": "a wish", "seconds": {"process": 2.0, "moved": 1.0}}
            lines.append({"event": "resized", "time": now + 3, **moved, **told})
        if number == 35:
            lines.append({"event": "stays", "time": now, "boundary": 35, "reason": "no room"})
    return lines


def written(directory: Path, lines: Iterable[Mapping[str, Any]], tail: str = "") -> Path:
    """Write a journal into a directory and return the directory; ``tail`` follows the last line."""
    directory.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (directory / JOURNAL).write_text(text + tail, encoding="utf-8")
    return directory
