"""The checks before a run starts: everything that follows from its files, without Ray."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

from moe.checkpoint.adapters.start import Start
from moe.checkpoint.card.steps import RECEIPT
from moe.checkpoint.digest import model_sha256
from moe.checkpoint.manifest import checkpoints, load_manifest
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.training import SaveContext
from moe.config.families import read_config
from moe.config.json_file import read_json
from moe.config.model import ModelConfig
from moe.config.run import RunConfig, parse_run, tuned_model
from moe.config.run.cautions import model_cautions
from moe.errors import ConfigError, DataError, StorageError
from moe.storage import Location
from pipelines.corpus.inputs import fingerprint, open_shards
from pipelines.corpus.shards import TokenShards
from pipelines.training.owner import check_owner
from pipelines.training.run_plan import check_plan

Resume = Literal["never", "always", "if-saved"]
"""How to treat existing checkpoints of a run: refuse them, require one, or use the newest if
any.
"""


def with_absolute_paths(run: RunConfig) -> RunConfig:
    """Return the run with paths that mean the same in every process."""
    sections = {
        name: section.model_copy(update={"path": section.path.absolute()})
        for name, section in (
            ("model", run.model),
            ("data", run.data),
            ("checkpoint", run.checkpoint),
            ("plan", run.plan),
        )
        if section.path is not None
    }
    run = run.model_copy(update=sections)
    if run.train.deepspeed_config is not None:
        absolute = run.train.deepspeed_config.absolute()
        train = run.train.model_copy(update={"deepspeed_config": absolute})
        run = run.model_copy(update={"train": train})
    lora = run.train.lora
    if lora is not None and lora.start is not None:
        lora = lora.model_copy(update={"start": lora.start.absolute()})
        run = run.model_copy(update={"train": run.train.model_copy(update={"lora": lora})})
    if run.plan.profile is None:
        return run
    plan = run.plan.model_copy(update={"profile": run.plan.profile.absolute()})
    return run.model_copy(update={"plan": plan})


def check_beginning(run: RunConfig, resume: Resume) -> tuple[SaveContext, int]:
    """Check a run against its files; return the context of its checkpoints and its sequence length.

    Errors name the wrong key of the run file.
    """
    config, shards = _check_inputs(run)
    check_plan(run, config, shards.sequence_length)
    check_owner(run)
    frozen = "" if config.tuning is None else model_sha256(run.model.path)
    context = SaveContext(config, run, run.model.path, fingerprint(run.data.path), frozen)
    saved = checkpoints(run.checkpoint.location)
    if saved and resume == "never":
        raise ConfigError(
            f"{run.checkpoint.location} holds checkpoints up to {saved[-1].name}; "
            "continue with --resume or give another checkpoint.path"
        )
    unfinished = saved and last_step(run) < run.train.steps
    if unfinished and run.train.engine == "deepspeed":
        raise ConfigError(
            f"{run.checkpoint.location} holds {saved[-1].name}, and DeepSpeed does not go on from "
            'one of its checkpoints; continue with train.engine = "raymoe", which does'
        )
    if saved:
        _check_same_run(context, saved[-1])
    elif run.train.lora is not None and run.train.lora.start is not None:
        Start(config, run.train.lora.start)
    return context, shards.sequence_length


def last_step(run: RunConfig) -> int:
    """Return the step of the newest checkpoint of a run; 0 if there is none."""
    saved = checkpoints(run.checkpoint.location)
    return int(saved[-1].name.removeprefix("step-")) if saved else 0


def check_saved(run: RunConfig, resume: Resume) -> None:
    """Raise ConfigError where a checkpoint must be resumed and there is none."""
    if resume == "always" and not checkpoints(run.checkpoint.location):
        raise ConfigError(
            f"nothing to resume: {run.checkpoint.location} holds no complete checkpoint, and no "
            f"actors of {run.name} are there to take over; leave --resume out to begin"
        )


def how_to_go_on(run: RunConfig) -> str:
    """Return how to continue an interrupted run."""
    step = last_step(run)
    if step == 0:
        return "no checkpoint was saved, so the run begins again at the start"
    return f"--resume continues from step {step}"


def cautions(run: RunConfig) -> list[str]:
    """Return warnings about a run."""
    model = Checkpoint.open(run.model.path)
    found = [*model.notes, *model_cautions(run, model.config)]
    fresh = _upcycled(run.model.path) and not checkpoints(run.checkpoint.location)
    if fresh and run.routing.capacity_factor is not None:
        found.append(
            f"routing.capacity_factor {run.routing.capacity_factor:g} drops tokens, and just after "
            "upcycling routers are random: the loss will start far above the dense model's. Train "
            "without it first; the virtual drop rate is measured all the same."
        )
    return found


def _check_inputs(run: RunConfig) -> tuple[ModelConfig, TokenShards]:
    """Open the model and the data, and check that they match each other and the run."""
    config = tuned_model(run, Checkpoint.open(run.model.path).config)
    shards = open_shards(run.model.path, config, run.data.path, "train")
    run.check_model(config)
    check_kind(run, shards)
    _check_segments(config, shards)
    _check_length(run, shards.sequence_length)
    if run.train.global_batch > len(shards):
        raise DataError(
            f"train.global_batch is {run.train.global_batch} sequences, but the training split of "
            f"{run.data.path} has {len(shards)}; lower it, or tokenize more text"
        )
    try:
        run.checkpoint.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot make checkpoint.path {run.checkpoint.path}: {error.strerror}; choose another"
        ) from error
    return config, shards


def check_kind(run: RunConfig, shards: TokenShards) -> None:
    """Raise where the rows are not what the run says, or need a loss that it has not."""
    found, said = shards.manifest.kind, run.data.kind
    if found != said:
        raise ConfigError(
            f'data.kind is "{said}", but {run.data.path} holds {found} rows; set data.kind = '
            f'"{found}", or tokenize with --kind {said}'
        )
    if found == "preference":
        raise ConfigError(
            f"{run.data.path} holds pairs of a chosen and a rejected answer, which the loss of "
            "this raymoe does not compare; tokenize the chosen answers with --kind chat"
        )


def _check_segments(config: ModelConfig, shards: TokenShards) -> None:
    """Raise DataError where experts are merged for segments of a row that documents share."""
    merged = config.moe is not None and config.moe.merged
    if merged and shards.manifest.packing == "packed":
        raise DataError(
            "the model merges its experts for segments of a row, by what stands before them, so "
            "documents that share a row would see each other; tokenize with --packing padded"
        )


def _check_length(run: RunConfig, found: int) -> None:
    said = run.data.sequence_length
    if said not in (None, found):
        raise ConfigError(
            f"data.sequence_length is {said}, but the sequences in {run.data.path} have {found} "
            "tokens; correct or remove the key, and render the pods of the run again"
        )


def _upcycled(model: Path) -> bool:
    """Return whether a model was upcycled from dense models, according to its receipt."""
    receipt = model / RECEIPT
    return receipt.exists() and read_json(receipt).get("method") not in ("init", "expand")


_MAY_CHANGE = (
    "train.steps",
    "train.schedule",
    "train.precision",
    "train.engine",
    "train.deepspeed_config",
    "data.sequence_length",
)


def changes(
    before: RunConfig, now: RunConfig, sections: Iterable[str]
) -> Iterator[tuple[str, str]]:
    """Yield each key of some sections whose value has changed, and a text that says so."""
    old, new = (each.model_dump(mode="json") for each in (before, now))
    for section in sections:
        for key, value in new[section].items():
            was = old[section].get(key)
            if was != value:
                yield f"{section}.{key}", f"{section}.{key} was {was!r} and is {value!r}"


def _architecture(context: SaveContext, checkpoint: Location) -> ModelConfig:
    """Return the architecture in a checkpoint, trained as the run trains it."""
    tuning = context.config.tuning
    if tuning is not None and tuning.lora is not None:
        found = read_config(read_json(checkpoint / "config.json"))
    else:
        found = Checkpoint.open(checkpoint).config
    return replace(found, tuning=tuning)


def _check_same_run(context: SaveContext, checkpoint: Location) -> None:
    """Raise ConfigError for changes that make it a different run; length, schedule and precision
    may change. Options that came after it began have their defaults.
    """
    manifest = load_manifest(checkpoint)
    began = parse_run(manifest.run, f"the run in {checkpoint}")
    sections = ("data", "train", "routing", "balance")
    changed = [
        text for key, text in changes(began, context.run, sections) if key not in _MAY_CHANGE
    ]
    if _architecture(context, checkpoint) != context.config:
        changed.append(f"{context.run.model.path} has another architecture")
    if manifest.data != context.data:
        changed.append(f"{context.run.data.path} was tokenized again")
    if manifest.frozen != context.frozen:
        changed.append(
            f"the weights in {context.run.model.path}, which it leaves as they are, have"
        )
    if context.run.train.steps < manifest.step:
        changed.append(f"train.steps is {context.run.train.steps}, below the {manifest.step} done")
    if changed:
        raise ConfigError(
            f"--resume continues the run of {checkpoint}, but {'; '.join(changed)}; "
            "undo the change or start a new run from that checkpoint as its model.path"
        )
