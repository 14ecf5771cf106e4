"""What the engine adds to the files of its ranks to make them one checkpoint."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from actors.saving import SavedFiles
from moe.checkpoint.manifest import OPTIMIZER, OPTIMIZER_INDEX, Manifest, checkpoints, file_sizes
from moe.checkpoint.reader import INDEX
from moe.checkpoint.remote import copy_remote_code
from moe.checkpoint.writer import copy_tokenizer, write_index, write_json
from moe.config.families import write_config
from moe.config.model import ModelConfig
from moe.config.run import RunConfig
from moe.planning.plan import Plan, save_plan, to_dict


def complete(
    directory: Path,
    saved: Sequence[tuple[SavedFiles, Mapping[int, float]]],
    config: ModelConfig,
    step: int,
    run: RunConfig,
    plan: Plan,
) -> None:
    """Write what belongs beside the tensors, and the manifest last."""
    model = {file: specs for files, _ in saved for file, specs in files.model.items()}
    moments = {file: specs for files, _ in saved for file, specs in files.optimizer.items()}
    write_index(directory, INDEX, model)
    write_index(directory / OPTIMIZER, OPTIMIZER_INDEX, moments)
    write_json(directory / "config.json", write_config(config, "float32"))
    copy_tokenizer(run.model.path, directory)
    copy_remote_code(config.family, directory)
    save_plan(plan, directory / "plan.toml")
    table = run.model_dump(mode="json")
    write_json(directory / "run.json", table)
    coefficients = {layer: alpha for _, held in saved for layer, alpha in held.items()}
    Manifest(
        step=step,
        coefficients=dict(sorted(coefficients.items())),
        plan=to_dict(plan),
        run=table,
        files=file_sizes(directory),
    ).save(directory)


def prune(directory: Path, keep: int) -> None:
    """Remove all but the newest ``keep`` complete checkpoints."""
    for path in checkpoints(directory)[:-keep]:
        doomed = path.with_name(f".{path.name}.removed")
        path.rename(doomed)
        shutil.rmtree(doomed)
