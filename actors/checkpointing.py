"""What the engine adds to the files of its ranks to make them one checkpoint."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.saving import SavedRank
from moe.checkpoint.manifest import OPTIMIZER, OPTIMIZER_INDEX, Manifest, checkpoints, file_sizes
from moe.checkpoint.reader import INDEX
from moe.checkpoint.remote import copy_remote_code
from moe.checkpoint.writer import copy_tokenizer, write_index, write_json
from moe.config.families import write_config
from moe.config.model import ModelConfig
from moe.config.run import RunConfig, dump_run
from moe.planning.plan import Plan
from moe.planning.plan_file import save_plan, to_dict


@dataclass(frozen=True, slots=True)
class SaveContext:
    """What a checkpoint holds that no rank knows: the architecture, the run, and the directory
    that the tokenizer comes from.
    """

    config: ModelConfig
    run: RunConfig
    tokenizer: Path
    data: str
    """Fingerprint of the token shards, so that a resumed run reads the same."""


def complete(
    directory: Path,
    saved: Sequence[SavedRank],
    step: int,
    plan: Plan,
    context: SaveContext,
) -> None:
    """Write what belongs beside the tensors, and the manifest last."""
    config, run = context.config, context.run
    model = {file: specs for files, _ in saved for file, specs in files.model.items()}
    moments = {file: specs for files, _ in saved for file, specs in files.optimizer.items()}
    write_index(directory, INDEX, model)
    write_index(directory / OPTIMIZER, OPTIMIZER_INDEX, moments)
    write_json(directory / "config.json", write_config(config, "float32"))
    copy_tokenizer(context.tokenizer, directory)
    copy_remote_code(config.family, directory)
    save_plan(plan, directory / "plan.toml")
    (directory / "run.json").write_text(dump_run(run), encoding="utf-8")
    balance = {layer: state for _, held in saved for layer, state in held.items()}
    Manifest(
        step=step,
        balance=dict(sorted(balance.items())),
        plan=to_dict(plan),
        data=context.data,
        run=run.model_dump(mode="json"),
        files=file_sizes(directory),
    ).save(directory)


def prune(directory: Path, keep: int) -> None:
    """Remove all but the newest ``keep`` complete checkpoints, and what killed writers left."""
    for leftover in (*directory.glob(".step-*.partial"), *directory.glob(".step-*.removed")):
        shutil.rmtree(leftover, ignore_errors=True)
    for path in checkpoints(directory)[:-keep]:
        doomed = path.with_name(f".{path.name}.removed")
        path.rename(doomed)
        shutil.rmtree(doomed)
