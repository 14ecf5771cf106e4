"""Training checkpoints to DeepSpeed's universal form and back, bit for bit, tensor by tensor.

This module decides how to fill in what only one side has. DeepSpeed has no balance coefficients: an
imported run begins with the coefficients of its run file. It has no position in our data: the step
gives the position. It has no plan: the checkpoint records one rank, and any plan resumes it.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from moe.checkpoint.card.steps import Made
from moe.checkpoint.training import About, SaveContext, WholeState, write_training_checkpoint
from moe.checkpoint.universal.layout import WEIGHT
from moe.checkpoint.universal.parameters import STACKING, Parameter, Part, parameters
from moe.checkpoint.universal.reader import UniversalCheckpoint
from moe.checkpoint.universal.writer import AdamSettings, StepKind, UniversalWriter
from moe.config.balance_state import BalanceState
from moe.config.model import ModelConfig
from moe.config.run import RunConfig
from moe.config.tensors import TensorSlice
from moe.nn import controller
from moe.planning.plan.file import to_dict
from moe.staging import check_room, refuse_existing, staged
from moe.storage import Location
from moe.surgery.one_rank import one_rank
from moe.surgery.output import Progress
from moe.surgery.receipt import hashes_below, write_receipt
from moe.surgery.trained import Counted, TrainingCheckpoint

_FLOAT_BYTES = 4


def import_universal(
    universal: UniversalCheckpoint,
    to: Path,
    run: RunConfig,
    data: str,
    origin: Path | None,
    progress: Progress,
) -> None:
    """Write a training checkpoint that the run resumes, and a receipt.

    Tokenizer and licence come from the run's model; ``data`` is the fingerprint of its shards.
    ``origin`` is the directory of ZeRO shards if DeepSpeed converted it only for this import; the
    receipt then names it. ``progress`` is called with the bytes written and the total.
    """
    kind = "universal checkpoint" if origin is None else "ZeRO checkpoint by ds_to_universal"
    method = f"import of a {kind}"
    about = About(
        SaveContext(universal.config, run, run.model.path, data),
        plan=to_dict(one_rank(universal.config, "deepspeed")),
        step=universal.step,
        made=Made(method, {"step": universal.step}, {"token shards": data}),
    )
    places = {part.tensor.name: (each, part) for each, part in universal.parts()}
    counted = Counted(universal.config, progress)

    def read(tensor: TensorSlice, state: str = WEIGHT) -> Tensor:
        return counted.passed(universal.read(*places[tensor.name], state))

    def receipt(directory: Location) -> None:
        read_from = universal.tag if origin is None else origin
        table = {
            "method": method,
            "options": {"step": universal.step},
            "source": read_from.resolve().name,
            "source_files": hashes_below(read_from, universal.files if origin is None else None),
        }
        assert isinstance(directory, Path)
        write_receipt(directory, table | {"files": hashes_below(directory)})

    refuse_existing(to)
    check_room(to, counted.total)
    state = WholeState(read, read, _beginning(universal.config, run))
    write_training_checkpoint(to, about, state, beside=receipt)


def export_universal(
    source: TrainingCheckpoint, to: Path, settings: AdamSettings, kind: StepKind, progress: Progress
) -> None:
    """Write a universal checkpoint that DeepSpeed loads, and a receipt.

    ``settings`` are the AdamW settings of the next step. ``progress`` is called with the bytes
    written and the total.
    """
    config, manifest = source.weights.config, source.manifest
    counted = Counted(config, progress)

    def reader(parameter: Parameter) -> Callable[[str], Tensor]:
        return lambda state: counted.passed(_assembled(source, parameter, state))

    refuse_existing(to)
    check_room(to, counted.total)
    with staged(to) as staging:
        writer = UniversalWriter(staging, manifest.step, kind)
        for parameter in parameters(config, stacked=config.family in STACKING):
            writer.write(parameter, reader(parameter))
        writer.finish(settings, manifest.step * int(manifest.run["train"]["global_batch"]))
        table = {
            "method": "export as a universal checkpoint",
            "options": {"step": manifest.step, "steps_as": kind},
            "source": source.path.resolve().name,
            "source_files": hashes_below(source.path),
        }
        write_receipt(staging, table | {"files": hashes_below(staging)})


def _read(source: TrainingCheckpoint, part: Part, state: str) -> Tensor:
    """Return the weight or a moment of a tensor, in float32."""
    if state == WEIGHT:
        return source.weights.read(part.tensor)
    return source.moments.read(part.tensor, state).float()


def _assembled(source: TrainingCheckpoint, parameter: Parameter, state: str) -> Tensor:
    """Return a parameter in the form that transformers holds."""
    if len(parameter.parts) == 1 and parameter.parts[0].expert is None:
        return _read(source, parameter.parts[0], state)
    whole = torch.empty(parameter.shape)
    for part in parameter.parts:
        part.of(whole).copy_(_read(source, part, state))
    return whole


def _beginning(config: ModelConfig, run: RunConfig) -> dict[int, BalanceState]:
    """Return the initial balance state of every layer with a gate."""
    if config.moe is None or not config.moe.gated or not run.balances:
        return {}
    return dict.fromkeys(config.moe_layers, controller.initial(run.balance.coefficient))
