"""What is kept of a load as JSON: its figures, and every request."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipelines.loading.answer import Answer
from pipelines.loading.figures import Figures
from pipelines.loading.load import Load
from pipelines.loading.target import Target


def write_report(
    path: Path, target: Target, load: Load, found: Figures, answers: Sequence[Answer]
) -> None:
    """Write a report; the key of the server and the texts of the answers are not in it."""
    asked = asdict(target)
    del asked["api_key"]
    report = {
        "target": asked,
        "load": asdict(load),
        "figures": {**asdict(found), "failed": found.failed, **found.rates},
        "requests": [_request(answer) for answer in answers],
    }
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _request(answer: Answer) -> dict[str, Any]:
    kept = asdict(answer)
    del kept["text"]
    return kept
