"""The evaluation harness in process, on our model class by its registered name.

    python -m tests.clients.in_process MODEL TASKS OUT

Writes the scores and what the model said to each row to a JSON file: once with token 1 before
texts that have nothing before them, once with the token that the harness's ``hf`` would take.
"""

import json
import sys
from pathlib import Path
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from pipelines.models.scoring import harness


def said(model: str, tasks: str, **more: Any) -> dict[str, Any]:
    """Return the scores of all tasks in a directory, and the answers to each row."""
    found = simple_evaluate(
        "raymoe",
        {"pretrained": model, **more},
        [str(file) for file in sorted(Path(tasks).glob("*.yaml"))],
        task_manager=TaskManager(include_defaults=False),
    )
    assert found is not None
    rows = {
        task: {sample["doc_id"]: sample["filtered_resps"] for sample in samples}
        for task, samples in found["samples"].items()
    }
    return {"scores": found["results"], **rows}


if __name__ == "__main__":
    assert harness.HarnessModel  # importing it is what registers it
    path, files, out = sys.argv[1:]
    results = {"one": said(path, files, prefix_token_id=1), "usual": said(path, files)}
    Path(out).write_text(json.dumps(results, default=str))
