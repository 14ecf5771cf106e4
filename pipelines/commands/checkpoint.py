"""``raymoe checkpoint convert``: to DeepSpeed's universal form, and back; to an adapter."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moe.errors import ConfigError
from pipelines.screen.terminal import caution, console, say

if TYPE_CHECKING:
    from moe.config.run import TrainSection

EXAMPLE = "raymoe checkpoint convert runs/demo/step-00000100 --format universal --to out"

Set = Annotated[list[str] | None, typer.Option("--set", help="With --run: section.key=value.")]


def convert(
    source: Annotated[
        Path, typer.Argument(help="A step-... directory of a run, or a checkpoint of DeepSpeed.")
    ],
    format_: Annotated[
        str, typer.Option("--format", help="What to write: universal, raymoe or peft.")
    ],
    to: Annotated[
        Path | None,
        typer.Option("--to", help="Where to write; for raymoe by default where --resume looks."),
    ] = None,
    run: Annotated[
        Path | None, typer.Option("--run", help="raymoe: the run file that is to go on.")
    ] = None,
    set_: Set = None,
    optimizer: Annotated[
        str | None,
        typer.Option(help="universal: torch (default), or deepspeed for its CPUAdam, FusedAdam."),
    ] = None,
    trust: Annotated[
        bool,
        typer.Option("--trust", help="raymoe: let DeepSpeed unpickle what save_checkpoint left."),
    ] = False,
) -> None:
    """Turn a training checkpoint into a DeepSpeed universal checkpoint, or one into ours; or what a
    run with LoRA has trained into an adapter of peft.
    """
    if format_ == "universal":
        _refuse("--format universal", {"--run": run, "--set": set_, "--trust": trust})
        if to is None:
            raise ConfigError("--format universal takes --to DIRECTORY; give one")
        _export(source, to, optimizer or "torch")
    elif format_ == "raymoe":
        _refuse("--format raymoe", {"--optimizer": optimizer})
        if run is None:
            raise ConfigError(
                "--format raymoe takes --run RUN.toml: data, schedule and balance of the run that "
                "goes on, which a checkpoint of DeepSpeed does not hold"
            )
        _import(source, to, run, set_ or (), trust)
    elif format_ == "peft":
        given: dict[str, object] = {"--run": run, "--set": set_, "--trust": trust}
        _refuse("--format peft", given | {"--optimizer": optimizer})
        if to is None:
            raise ConfigError("--format peft takes --to DIRECTORY; give one")
        _export_adapter(source, to)
    else:
        raise ConfigError(f"no format {format_!r}; choose universal, raymoe or peft")


def _refuse(what: str, options: dict[str, object]) -> None:
    given = [name for name, value in options.items() if value]
    if given:
        raise ConfigError(f"{what} gives {', '.join(given)} no effect; remove it")


def _refuse_projectors(section: object, verb: str) -> None:
    if section is not None:
        raise ConfigError(
            "the run has projectors of experts (train.orthogonal), which a checkpoint of DeepSpeed "
            f"cannot {verb}; convert a run without train.orthogonal"
        )


def _refuse_tuning(train: "TrainSection", verb: str) -> None:
    if train.tuning is not None:
        key = "train.freeze" if train.lora is None else "train.lora"
        raise ConfigError(
            f"the run trains a part of its model ({key}), which a checkpoint of DeepSpeed cannot "
            f"{verb}; convert a run that trains all of it"
        )


def _export_adapter(source: Path, to: Path) -> None:
    from moe.surgery.adapter import export_adapter

    export_adapter(source, to)
    say(f"wrote {to}")


def _export(source: Path, to: Path, optimizer: str) -> None:
    from actors.step.optimizer import learning_rate
    from moe.checkpoint.manifest import MANIFEST, load_manifest
    from moe.checkpoint.universal.writer import AdamSettings, StepKind
    from moe.config.run import parse_run
    from moe.surgery.deepspeed import export_universal
    from moe.surgery.trained import TrainingCheckpoint
    from pipelines.screen.progress import counted

    kinds: dict[str, StepKind] = {"torch": "tensor", "deepspeed": "integer"}
    if optimizer not in kinds:
        raise ConfigError(f"no optimizer {optimizer!r}; choose {' or '.join(kinds)}")
    if (source / MANIFEST).is_file():
        _refuse_tuning(parse_run(load_manifest(source).run, f"the run in {source}").train, "write")
    opened = TrainingCheckpoint.open(source)
    train = parse_run(opened.manifest.run, f"the run in {source}").train
    _refuse_projectors(train.orthogonal, "write")
    settings = AdamSettings(
        lr=learning_rate(train, opened.manifest.step),
        betas=(train.beta1, train.beta2),
        eps=train.epsilon,
    )
    with counted(console, "converting", "MB") as progress:
        export_universal(opened, to, settings, kinds[optimizer], progress)
    say(f"wrote {to}")


def _import(
    source: Path, to: Path | None, run_file: Path, overrides: Sequence[str], trust: bool
) -> None:
    from moe.checkpoint.architecture import read_architecture
    from moe.checkpoint.manifest import checkpoints, step_directory
    from moe.checkpoint.universal.reader import UniversalCheckpoint
    from moe.config.run import load_run
    from moe.surgery.deepspeed import import_universal
    from pipelines.corpus.inputs import fingerprint, open_shards
    from pipelines.screen.progress import counted
    from pipelines.training.beginning import with_absolute_paths

    run = with_absolute_paths(load_run(run_file, overrides))
    found = read_architecture(run.model.path)
    for note in found.notes:
        caution(note)
    _refuse_projectors(run.train.orthogonal, "have")
    _refuse_tuning(run.train, "have")
    config = found.config
    run.check_model(config)
    open_shards(run.model.path, config, run.data.path, "train")
    if to is None and run.checkpoint.storage is not None:
        raise ConfigError(
            f"checkpoints of this run are in {run.checkpoint.location}, where a conversion cannot "
            "write; give --to a directory and copy it there"
        )
    saved = checkpoints(run.checkpoint.path)
    if to is None and saved:
        raise ConfigError(
            f"{run.checkpoint.path} holds checkpoints up to {saved[-1].name} already; give the run "
            "another checkpoint.path, or --to"
        )
    with _universal(source, to or run.checkpoint.path, trust) as (path, origin):
        universal = UniversalCheckpoint.open(path, config)
        if universal.step > run.train.steps:
            raise ConfigError(
                f"{source} has done {universal.step} steps, train.steps is {run.train.steps}; "
                "raise it"
            )
        location = to or step_directory(run.checkpoint.path, universal.step)
        with counted(console, "converting", "MB") as progress:
            data = fingerprint(run.data.path)
            import_universal(universal, location, run, data, origin, progress)
    say(f"wrote {location}")


@contextmanager
def _universal(source: Path, near: Path, trust: bool) -> Iterator[tuple[Path, Path | None]]:
    """Yield a universal checkpoint: the source, or what DeepSpeed makes of its shards, and these.

    What DeepSpeed makes lies beside the destination, for as long as it is read.
    """
    from pipelines.models.zero import check_convertible, to_universal, zero_directory

    shards = zero_directory(source)
    if shards is None:
        if trust:
            _refuse(f"{source}, no checkpoint of save_checkpoint,", {"--trust": trust})
        yield source, None
        return
    check_convertible(shards, trust)
    near.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".universal-", dir=near.absolute().parent) as folder:
        with console.status("ds_to_universal"):
            made = to_universal(shards, Path(folder))
        yield made, shards
